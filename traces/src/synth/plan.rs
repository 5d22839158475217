//! Who there is: how often each function is invoked, by what, and which functions make an app.

use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

use super::published::{APP_SIZES, DAILY, MEAN_APP_SIZE, TOP, TRIGGERS, VARIATION};
use crate::options::MINUTES_PER_DAY;
use crate::trace::{Trigger, mix};

/// A function to be.
#[derive(Clone, Debug)]
pub(crate) struct Planned {
    pub trigger: Trigger,
    /// Position among the functions by invocations, from 0 (fewest) to below 1.
    pub rank: f64,
    pub invocations: u64,
    pub app: usize,
    /// Fires by the clock, once every so many minutes.
    pub period: Option<u32>,
}

/// How the invocations of an app lie in time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Style {
    /// Gaps vary less than a Poisson process's: their coefficient of variation is at most 1.
    Smooth,
    /// In bursts: the coefficient of variation aimed at.
    Bursty(f64),
}

/// All functions and apps.
pub(crate) struct Plan {
    pub functions: Vec<Planned>,
    /// By app.
    pub styles: Vec<Style>,
}

/// Periods of timers in minutes: those that divide a day.
const PERIODS: [u32; 16] = [1, 2, 3, 5, 10, 15, 20, 30, 60, 120, 180, 240, 360, 480, 720, 1440];
/// Of the perfectly regular apps this share has a single function; the rest comes about by chance, mostly from
/// a timer of every minute beside functions that are hardly ever invoked.
const ALONE: f64 = 0.8;
/// The busiest share of functions, whose invocations are set by [`TOP`].
const HEAD: f64 = 0.01;

/// Plans `n` functions with `total` invocations in `minutes`.
pub(crate) fn plan(n: usize, minutes: u32, total: u64, seed: u64) -> Plan {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(mix(seed, 1));
    let days = f64::from(minutes) / f64::from(MINUTES_PER_DAY);
    let rank = |i: usize| (i as f64 + 0.5) / n as f64;
    let wanted = invocations(n, days, total as f64);
    let triggers = triggers(&wanted, total as f64, days, &mut rng);
    let (app_of, apps) = apps(n, &mut rng);
    let mut functions: Vec<Planned> = (0..n)
        .map(|i| Planned {
            trigger: triggers[i],
            rank: rank(i),
            invocations: wanted[i].ceil() as u64,
            app: app_of[i],
            period: None,
        })
        .collect();
    for function in &mut functions {
        if function.trigger == Trigger::Timer {
            set_period(function, minutes);
        }
    }
    let styles = styles(&mut functions, apps, minutes, &mut rng);
    balance(&mut functions, total);
    Plan { functions, styles }
}

/// Invocations of each function in the span, from the fewest to the most, before rounding up.
fn invocations(n: usize, days: f64, total: f64) -> Vec<f64> {
    let head = ((n as f64 * HEAD).round() as usize).clamp(1, n);
    let least_head = (86_400.0 * days).max(1.0);
    let mut all: Vec<f64> = (0..n - head).map(|i| (DAILY.at((i as f64 + 0.5) / n as f64) * days).max(1.0)).collect();
    let over = total - all.iter().sum::<f64>() - head as f64 * least_head;
    // Share of the invocations that the busiest so many functions have, by the published points.
    let share = |rank: usize| {
        let x = rank as f64 / n as f64;
        let [a, b, c] = TOP;
        let (from, to) = if x < b.0 { (a, b) } else { (b, c) };
        let slope = (to.1 / from.1).ln() / (to.0 / from.0).ln();
        from.1 * (x / from.0).powf(slope)
    };
    let whole = share(head);
    for rank in (1..=head).rev() {
        let before = if rank == 1 { 0.0 } else { share(rank - 1) };
        all.push(least_head + over.max(0.0) * (share(rank) - before) / whole);
    }
    if over < 0.0 {
        // Too few for the published rates: each is raised to a common power below one.
        let sum = |power: f64| all.iter().map(|x| x.powf(power)).sum::<f64>();
        let (mut low, mut high) = (0.0, 1.0);
        for _ in 0..60 {
            let middle = (low + high) / 2.0;
            if sum(middle) < total { low = middle } else { high = middle }
        }
        for x in &mut all {
            *x = x.powf(low);
        }
    }
    all
}

/// A trigger for each function: the busiest go to whichever trigger lacks most invocations, the steps of the
/// distribution to timers, the rest by chance, such that the number of functions of each trigger is right.
fn triggers(invocations: &[f64], total: f64, days: f64, rng: &mut Xoshiro256PlusPlus) -> Vec<Trigger> {
    let n = invocations.len();
    let functions_sum: f64 = TRIGGERS.iter().map(|trigger| trigger.1).sum();
    let mut quota: Vec<usize> =
        TRIGGERS.iter().map(|trigger| (trigger.1 / functions_sum * n as f64).round() as usize).collect();
    let mut lacking: Vec<f64> = TRIGGERS.iter().map(|trigger| trigger.2 / 100.0 * total).collect();
    let on_step = |i: usize| {
        let q = (i as f64 + 0.5) / n as f64;
        (0.78..0.83).contains(&q) || (0.88..0.93).contains(&q)
    };
    const TIMER: usize = 1;
    lacking[TIMER] -= (0..n).filter(|&i| on_step(i)).map(|i| invocations[i]).sum::<f64>();

    let mut chosen: Vec<Option<usize>> = vec![None; n];
    for i in (0..n).filter(|&i| on_step(i)) {
        if quota[TIMER] > 0 {
            chosen[i] = Some(TIMER);
            quota[TIMER] -= 1;
        }
    }
    for i in (0..n).rev() {
        if invocations[i] <= (1440.0 * days).max(1.0) + 1e-6 {
            break;
        }
        if chosen[i].is_some() {
            continue;
        }
        let kind =
            (0..TRIGGERS.len()).filter(|&kind| quota[kind] > 0).max_by(|&a, &b| lacking[a].total_cmp(&lacking[b]));
        if let Some(kind) = kind {
            lacking[kind] -= invocations[i];
            chosen[i] = Some(kind);
            quota[kind] -= 1;
        }
    }
    let mut left: Vec<usize> = (0..TRIGGERS.len()).flat_map(|kind| std::iter::repeat_n(kind, quota[kind])).collect();
    left.shuffle(rng);
    // Rounded quotas may be one or two short: http, the most frequent, fills up.
    chosen.into_iter().map(|kind| TRIGGERS[kind.or_else(|| left.pop()).unwrap_or(0)].0).collect()
}

/// The app of each function, and how many apps there are.
fn apps(n: usize, rng: &mut Xoshiro256PlusPlus) -> (Vec<usize>, usize) {
    let apps = ((n as f64 / MEAN_APP_SIZE).round() as usize).clamp(1, n);
    let [one, two, three, ten] = APP_SIZES.map(|point| point.1);
    let place = |i: usize| (i as f64 + 0.5) / apps as f64;
    // The smallest size of the class that an app's place puts it in.
    let least = |i: usize| match place(i) {
        q if q < one => 1,
        q if q < two => 2,
        q if q < three => 3,
        q if q < ten => 4,
        _ => 11,
    };
    let mut sizes: Vec<usize> = (0..apps)
        .map(|i| match (least(i), place(i)) {
            // Four to ten, the small ones more often; then a tail of Pareto's kind.
            (4, q) => 4 + (7.0 * ((q - three) / (ten - three)).powf(2.5)) as usize,
            (11, q) => (11.0 * ((1.0 - q) / (1.0 - ten)).powf(-0.2)) as usize,
            (size, _) => size,
        })
        .collect();
    // The sum is made exact from the largest apps down, inside their classes as far as that goes.
    let mut sum: usize = sizes.iter().sum();
    let tail = (0..apps).filter(|&i| least(i) == 11).count().max(1);
    let mut turn = 0;
    while sum < n {
        sizes[apps - 1 - turn % tail] += 1;
        sum += 1;
        turn += 1;
    }
    for in_class in [true, false] {
        let mut changed = true;
        while sum > n && changed {
            changed = false;
            for (i, size) in sizes.iter_mut().enumerate().rev() {
                if sum > n && *size > if in_class { least(i) } else { 1 } {
                    *size -= 1;
                    sum -= 1;
                    changed = true;
                }
            }
        }
    }
    let mut app_of: Vec<usize> =
        sizes.into_iter().zip(0..).flat_map(|(size, app)| std::iter::repeat_n(app, size)).collect();
    app_of.shuffle(rng);
    (app_of, apps)
}

/// Makes a function fire by the clock, at the period nearest to its number of invocations.
fn set_period(function: &mut Planned, minutes: u32) {
    let wanted = f64::from(minutes) / function.invocations.max(1) as f64;
    let period = PERIODS
        .into_iter()
        .min_by(|&a, &b| {
            let distance = |period: u32| (f64::from(period) / wanted).ln().abs();
            distance(a).total_cmp(&distance(b))
        })
        .unwrap_or(1);
    let each = (function.invocations as f64 / f64::from(minutes)).round().max(1.0) as u64;
    function.period = Some(period);
    function.invocations = match period {
        1 => each * u64::from(minutes),
        _ => u64::from(minutes / period).max(1),
    };
}

/// Exchanges timers that are alone in their app with other functions of larger apps, until no more apps than
/// published are perfectly regular.
fn part_timers(functions: &mut [Planned], members: &mut [Vec<usize>]) {
    let sum = |app: &Vec<usize>| app.iter().map(|&i| functions[i].invocations).sum::<u64>();
    let countable = members.iter().filter(|app| sum(app) >= 3).count() as f64;
    let mut alone: Vec<usize> = (0..members.len())
        .filter(|&app| match members[app][..] {
            [i] => functions[i].period.is_some() && functions[i].invocations >= 3,
            _ => false,
        })
        .collect();
    let most = (countable * VARIATION[0].1 * ALONE) as usize;
    let others: Vec<(usize, usize)> = (0..members.len())
        .filter(|&app| members[app].len() > 1)
        .flat_map(|app| (0..members[app].len()).map(move |place| (app, place)))
        .filter(|&(app, place)| functions[members[app][place]].period.is_none())
        .collect();
    for (app, place) in others {
        if alone.len() <= most {
            break;
        }
        if let Some(single) = alone.pop() {
            let (timer, other) = (members[single][0], members[app][place]);
            members[single][0] = other;
            members[app][place] = timer;
            functions[timer].app = app;
            functions[other].app = single;
        }
    }
}

/// A style for each app, such that the coefficients of variation are spread as published among the apps with
/// at least three invocations (two gaps). Some functions become periodic on the way.
fn styles(functions: &mut [Planned], apps: usize, minutes: u32, rng: &mut Xoshiro256PlusPlus) -> Vec<Style> {
    let mut members: Vec<Vec<usize>> = vec![Vec::new(); apps];
    for (i, function) in functions.iter().enumerate() {
        members[function.app].push(i);
    }
    part_timers(functions, &mut members);
    let sum = |app: usize| -> u64 { members[app].iter().map(|&i| functions[i].invocations).sum() };
    let mut order: Vec<usize> = (0..apps).filter(|&app| sum(app) >= 3).collect();
    let countable = order.len() as f64;
    order.shuffle(rng);
    let [steady, poisson, wild] = VARIATION.map(|point| point.1);
    let timers = |app: usize| members[app].iter().any(|&i| functions[i].period.is_some());
    let head = |app: usize| members[app].iter().any(|&i| functions[i].rank > 1.0 - HEAD);
    let mut styles = vec![Style::Smooth; apps];

    let mut wild_left = (countable * (1.0 - wild)).round() as usize;
    let mut bursty_left = (countable * (wild - poisson)).round() as usize;
    for least in [400, 250] {
        for &app in &order {
            let free = styles[app] == Style::Smooth && !timers(app) && !head(app);
            if wild_left > 0 && free && sum(app) >= least {
                let most = (sum(app) as f64).sqrt().clamp(15.0, 40.0);
                styles[app] = Style::Bursty(rng.random_range(13.0..=most.max(14.0)));
                wild_left -= 1;
            }
        }
    }
    let mut periodic_left = (countable * steady * ALONE).round() as usize;
    let alone = |app: usize| members[app].len() == 1;
    let already = order.iter().filter(|&&app| alone(app) && timers(app)).count();
    periodic_left = periodic_left.saturating_sub(already);
    let mut become_periodic = Vec::new();
    for &app in &order {
        let free = styles[app] == Style::Smooth && !timers(app) && !head(app);
        if free && alone(app) && periodic_left > 0 {
            become_periodic.push(members[app][0]);
            periodic_left -= 1;
        } else if free && bursty_left > 0 && sum(app) >= 8 {
            let most = (sum(app) as f64).sqrt().min(6.0);
            styles[app] = Style::Bursty(rng.random_range(1.5f64.min(most)..=most));
            bursty_left -= 1;
        }
    }
    // Not enough without timers: apps in which timers are few.
    for &app in &order {
        let by_clock: u64 =
            members[app].iter().filter(|&&i| functions[i].period.is_some()).map(|&i| functions[i].invocations).sum();
        let free = styles[app] == Style::Smooth && by_clock > 0 && !head(app);
        if bursty_left > 0 && free && sum(app) >= 20 && by_clock * 4 <= sum(app) {
            styles[app] = Style::Bursty(4.0);
            bursty_left -= 1;
        }
    }
    for i in become_periodic {
        set_period(&mut functions[i], minutes);
    }
    styles
}

/// Makes the sum exact: at the busiest functions that do not fire by the clock, and if those are too few, at
/// some that do, which then no longer do.
fn balance(functions: &mut [Planned], total: u64) {
    let sum: u64 = functions.iter().map(|function| function.invocations).sum();
    let mut more = total.saturating_sub(sum);
    let mut less = sum.saturating_sub(total);
    for function in functions.iter_mut().rev().filter(|f| f.period.is_none()) {
        function.invocations += more;
        more = 0;
        // Half at a time, so that the busiest stays among the busiest.
        let give = less.min(function.invocations / 2);
        function.invocations -= give;
        less -= give;
    }
    for function in functions.iter_mut().rev() {
        let give = less.min(function.invocations - 1);
        if give > 0 || more > 0 {
            function.invocations = function.invocations - give + more;
            function.period = None;
        }
        less -= give;
        more = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_exact() {
        for (n, minutes, total) in [
            (400, 1440, 1_500_000),
            (200, 120, 62_500),
            (10_000, 1440, 196_000_000),
            (50, 1440, 2_000),
            (200, 600, 20_000),
        ] {
            let plan = plan(n, minutes, total, 3);
            let sum: u64 = plan.functions.iter().map(|f| f.invocations).sum();
            assert_eq!((sum, plan.functions.len()), (total, n), "{n} in {minutes}");
            assert!(plan.functions.iter().all(|f| f.invocations >= 1));
        }
    }

    #[test]
    fn apps_hold_every_function_once() {
        for n in [1, 2, 3, 7, 400, 46_412] {
            let (app_of, apps) = apps(n, &mut Xoshiro256PlusPlus::seed_from_u64(1));
            let mut sizes = vec![0; apps];
            for app in &app_of {
                sizes[*app] += 1;
            }
            assert_eq!(app_of.len(), n);
            assert!(sizes.iter().all(|&size| size > 0));
        }
    }
}
