//! Watching a job from the submitting side: the cells that appear, and the tasks that are alive.

use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::submission::{NO_FOLDER, NO_PROGRAM, NO_WRITING, Submission};
use super::{SlurmError, client};
use crate::output::Output;
use crate::run::{INTERRUPTED, Job, label};
use crate::store::Store;

/// How long a file that another node has written may take to show here (attribute caches of NFS hold for up to a minute).
const SHOWS_AFTER: Duration = Duration::from_secs(60);
/// Tasks that are told of one by one when cells have not come.
const TOLD: usize = 4;

/// Waits until all of `cells` are in the store, or nobody is left who would bring them.
pub fn follow(cells: &[&Job], submissions: &[Submission], store: &Store, out: &Output) -> Result<(), SlurmError> {
    let progress = Progress::new(cells.len(), out);
    let began = Instant::now();
    let mut asked_in_vain = false;
    loop {
        // Who is alive is asked before what is there: a task that ends in between has left its cells.
        let asked = alive(submissions);
        let there = store.keys();
        let done = cells.iter().filter(|c| there.contains(&c.key)).count();
        if done == cells.len() {
            break;
        }
        match asked {
            Ok(tasks) => {
                progress.tell(done, &tasks);
                if tasks.is_empty() {
                    if lost(cells, submissions, store) {
                        break;
                    }
                    // All ended well, and yet a file is not to be seen: give the shared folder its time.
                    let since = Instant::now();
                    while since.elapsed() < SHOWS_AFTER && !stopped() && missing(cells, store) {
                        std::thread::sleep(Duration::from_millis(500));
                    }
                    break;
                }
                asked_in_vain = false;
            }
            Err(client::Trouble::Missing(e)) => return Err(e),
            Err(client::Trouble::Said(said)) => {
                if !asked_in_vain {
                    progress.hide();
                    out.warn(format!("Slurm does not answer ({said}); asking again until it does"));
                }
                asked_in_vain = true;
            }
        }
        // Often while it may be a short job, seldom when it is a long one: the controller serves others too.
        let pause = (began.elapsed() / 20).clamp(Duration::from_millis(500), Duration::from_secs(10));
        let until = Instant::now() + pause;
        while Instant::now() < until && !stopped() {
            std::thread::sleep(Duration::from_millis(100));
        }
        if stopped() {
            progress.hide();
            let called = submissions.iter().map(|s| format!("job {}", s.called())).collect::<Vec<_>>().join(", ");
            let names = submissions.iter().map(|s| s.name.as_str()).collect::<Vec<_>>().join(",");
            return Err(SlurmError::Left(called, names));
        }
    }
    progress.hide();
    if missing(cells, store) {
        return Err(SlurmError::Unfinished(what_happened(cells, submissions, store)));
    }
    out.say(format!("{} cells came from Slurm in {:.0} s", cells.len(), began.elapsed().as_secs_f64()));
    Ok(())
}

fn stopped() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

fn alive(submissions: &[Submission]) -> Result<Vec<client::Task>, client::Trouble> {
    let mut tasks = Vec::new();
    for submission in submissions {
        tasks.extend(client::alive(&submission.name)?);
    }
    Ok(tasks)
}

fn missing(cells: &[&Job], store: &Store) -> bool {
    let there = store.keys();
    cells.iter().any(|c| !there.contains(&c.key))
}

fn ends(submission: &Submission) -> BTreeMap<usize, client::End> {
    submission.job.as_deref().map(client::ends).unwrap_or_default()
}

/// The tasks of a submission with cells that are not there.
fn unfinished<'a>(
    submission: &'a Submission,
    missing: &'a BTreeSet<&str>,
) -> impl Iterator<Item = (usize, Vec<&'a str>)> {
    let cells =
        |task: &'a [String]| task.iter().map(String::as_str).filter(|k| missing.contains(k)).collect::<Vec<_>>();
    submission.tasks.iter().enumerate().map(move |(i, task)| (i, cells(task))).filter(|(_, cells)| !cells.is_empty())
}

/// Whether some cell will not come: its task did not end well, or nobody knows how it ended.
fn lost(cells: &[&Job], submissions: &[Submission], store: &Store) -> bool {
    let there = store.keys();
    let missing: BTreeSet<&str> = cells.iter().map(|c| c.key.as_str()).filter(|k| !there.contains(*k)).collect();
    submissions.iter().any(|s| {
        let ends = ends(s);
        unfinished(s, &missing).any(|(task, _)| ends.get(&task).is_none_or(|e| e.state != "COMPLETED"))
    })
}

/// For each task that left cells undone: how it ended, where, and the last it said.
fn what_happened(cells: &[&Job], submissions: &[Submission], store: &Store) -> String {
    let there = store.keys();
    let labels: BTreeMap<&str, String> =
        cells.iter().filter(|c| !there.contains(&c.key)).map(|c| (c.key.as_str(), label(c))).collect();
    let missing: BTreeSet<&str> = labels.keys().copied().collect();
    let mut told = Vec::new();
    for submission in submissions {
        let ends = ends(submission);
        for (task, undone) in unfinished(submission, &missing) {
            let first = undone.first().and_then(|k| labels.get(k)).map_or("", String::as_str);
            let end = ends.get(&task);
            let how = end.map_or_else(
                || "ended, and Slurm no longer says how".to_owned(),
                |e| format!("{} on {}{}", e.state, e.node, status(&e.exit)),
            );
            let log = submission.log(task);
            let why = explain(end, &log, store);
            told.push(format!("  task {task}, {} cells undone, first {first}: {how}{why}", undone.len()));
        }
    }
    let more = told.len().saturating_sub(TOLD);
    told.truncate(TOLD);
    if more > 0 {
        told.push(format!("  and {more} more tasks"));
    }
    let folders: Vec<String> = submissions.iter().map(|s| s.folder.display().to_string()).collect();
    format!(
        "{} of {} cells did not come from Slurm\n{}\nfinished cells are kept, the same command runs the rest again; logs: {}",
        missing.len(),
        cells.len(),
        told.join("\n"),
        folders.join(", ")
    )
}

/// Slurm's `status:signal` in words.
fn status(exit: &str) -> String {
    match exit.split_once(':') {
        Some(("0", "0")) | None => String::new(),
        Some((status, "0")) => format!(", exit status {status}"),
        Some((_, signal)) => format!(", signal {signal}"),
    }
}

/// What a task said last, or what its exit status means.
fn explain(end: Option<&client::End>, log: &std::path::Path, store: &Store) -> String {
    let folder = store.root().display();
    let node = end.map_or("the node", |e| e.node.as_str());
    match end.map_or("", |e| e.exit.as_str()) {
        NO_FOLDER => format!(
            "\n    {node} does not see the folder of this command or {folder}: both, and the trace, must lie where all nodes see them \
             under the same path; --out names another result folder"
        ),
        NO_PROGRAM => format!(
            "\n    {node} does not have this program ({}): copy it to a folder that all nodes see, and call it there",
            std::env::current_exe().map(|p| p.display().to_string()).unwrap_or_default()
        ),
        NO_WRITING => format!("\n    {node} may not write into {folder}: --out names another result folder"),
        _ => {
            let said = std::fs::read(log).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default();
            let lines: Vec<&str> = said.lines().collect();
            let from = lines.iter().rposition(|l| l.starts_with("error")).unwrap_or(lines.len().saturating_sub(3));
            lines[from..].iter().take(8).map(|l| format!("\n    {l}")).collect()
        }
    }
}

/// A bar where a person looks on, plain lines otherwise, nothing when quiet.
struct Progress {
    bar: ProgressBar,
    plain: bool,
    cells: usize,
    /// What was said last, and when.
    last: std::cell::RefCell<(String, Option<Instant>)>,
}

impl Progress {
    fn new(cells: usize, out: &Output) -> Self {
        let person = std::io::stderr().is_terminal() && !out.quiet;
        let bar = ProgressBar::with_draw_target(Some(cells as u64), ProgressDrawTarget::hidden());
        if person {
            bar.set_draw_target(ProgressDrawTarget::stderr());
            bar.enable_steady_tick(Duration::from_secs(1));
        }
        let template = "{bar:30} {percent:>3} %  {pos} of {len} cells  {elapsed}  {wide_msg}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self { bar, plain: !person && !out.quiet, cells, last: Default::default() }
    }

    fn tell(&self, done: usize, tasks: &[client::Task]) {
        let waiting: Vec<&client::Task> = tasks.iter().filter(|t| t.state == "PENDING").collect();
        let mut text = format!("tasks: {} running, {} waiting", tasks.len() - waiting.len(), waiting.len());
        if let Some(task) = waiting.first() {
            text.push_str(&format!(" ({})", task.reason));
        }
        self.bar.set_position(done as u64);
        self.bar.set_message(text.clone());
        if self.plain {
            let mut last = self.last.borrow_mut();
            let line = format!("{done} of {} cells; {text}", self.cells);
            if line != last.0 && last.1.is_none_or(|at| at.elapsed() >= Duration::from_secs(5)) {
                eprintln!("{line}");
                *last = (line, Some(Instant::now()));
            }
        }
    }

    fn hide(&self) {
        self.bar.finish_and_clear();
    }
}
