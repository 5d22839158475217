//! `medes figures`: every figure of the paper's evaluation, each from its own experiment file, and the report of all.
//!
//! A figure of runs is an experiment as any other (`medes run experiments/paper/05-cold-starts.toml` runs it alone); what
//! is added here is the picture that the paper has of it, and the paper's statements held against the rows. Figures of real memory
//! come from dumps, or from what was measured on dumps once ([`sandboxes`]).

mod claims;
mod evidence;
mod frontier;
mod improvement;
mod keep_alive;
mod of_dumps;
mod page;
mod sandboxes;
pub mod spec;
mod spread;
mod world;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use medes_engine::profile::ProfileSet;
use medes_plots::figure::Figure;
use medes_plots::paper::{Claim, Section, TextTable, write_paper};
use medes_plots::plan::paper::{Kind as Drawing, of_kind};
use medes_plots::{CellData, DrawnFigure};
use medes_traces::TraceSpec;

use crate::experiment::{Experiment, Overrides};
use crate::output::{Output, thousands};
use crate::run::{self, Finished, Inputs};
use crate::store::{Store, write_whole};
use crate::workload::Workload;
use sandboxes::Sandboxes;
use spec::{Kind, Spec};
use world::World;

/// Arguments of `figures`.
#[derive(Debug, clap::Args)]
pub struct FiguresArgs {
    /// Figures by number or name (`medes figures --list`); all of them without any.
    #[arg(value_name = "FIGURE")]
    figures: Vec<String>,
    /// Say what each figure shows, which inputs it needs and how long it takes.
    #[arg(long)]
    list: bool,
    /// The world in which runs take place: `sim` in virtual time, `real` on sandboxes of this machine, or of a cluster with --cluster.
    #[arg(long, value_name = "WORLD", default_value = "sim")]
    backend: crate::Backend,
    /// Real: a cluster file (the reference's cluster.json); the agents run there already.
    #[arg(long, value_name = "FILE")]
    cluster: Option<PathBuf>,
    /// The trace of every figure, in place of the generated one: azure2019:, azure2021:, invitro:, requests:, csv: and a path.
    #[arg(long, value_name = "KIND:PATH")]
    trace: Option<TraceSpec>,
    /// Set a parameter in every figure's experiment, as for `medes run`.
    #[arg(long, value_name = "KEY=VALUE[,VALUE...]")]
    set: Vec<String>,
    /// Seed, repeatable; replaces the experiments' lists.
    #[arg(long, value_name = "N")]
    seed: Vec<u64>,
    /// Small versions, of seconds: to see that all works.
    #[arg(long)]
    small: bool,
    /// Dumps for the figures of real memory, as scripts/make-dumps lays them out; without it config/sandboxes.toml.
    #[arg(long, value_name = "DIR")]
    dumps: Option<PathBuf>,
    /// Keep what was measured on the dumps in this file, in the form of config/sandboxes.toml.
    #[arg(long, value_name = "FILE", requires = "dumps")]
    keep: Option<PathBuf>,
    /// Cells run at once; default: one a core.
    #[arg(long, short, value_name = "N")]
    jobs: Option<std::num::NonZeroUsize>,
    /// Result folder.
    #[arg(long, value_name = "DIR", default_value = "results/paper")]
    out: PathBuf,
}

/// An experiment ready to run.
pub struct Prepared {
    experiment: Experiment,
    profiles: Arc<ProfileSet>,
    profile_text: String,
    workload: Workload,
    /// What the reader must know of the trace and the pools.
    notes: Vec<String>,
}

/// What one figure's file gave.
#[derive(Default)]
struct Made {
    figures: Vec<Figure>,
    tables: Vec<TextTable>,
    claims: Vec<Claim>,
    origin: String,
    notes: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// Bad input, or what a run or the disk refuses.
pub fn run(args: &FiguresArgs, out: &Output) -> anyhow::Result<()> {
    let chosen = Spec::chosen(&args.figures)?;
    if args.list {
        page::list(&chosen, out);
        return Ok(());
    }
    let real = args.backend == crate::Backend::Real;
    anyhow::ensure!(real || args.cluster.is_none(), "--cluster is for the real world: give --backend real with it");
    anyhow::ensure!(
        !real || !args.small,
        "--small is of simulated figures: --set trace.minutes=1 shortens real ones, which take as long as their trace"
    );
    let (chosen, world) = match real {
        false => (chosen, World::Simulated),
        true => {
            let possible = world::possible(chosen, !args.figures.is_empty(), out)?;
            let runs = possible.iter().any(|s| !s.figure.kind.of_sandboxes());
            (possible, if runs { World::real(args.cluster.as_deref())? } else { World::Simulated })
        }
    };
    let folder = args.out.join("figures");
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot make the folder {}; --out names another one", folder.display()))?;
    let set = measured(args, &chosen, out)?;
    let mut sections = Vec::new();
    let mut outlines = String::new();
    let mut took = Vec::new();
    for spec in &chosen {
        let began = std::time::Instant::now();
        out.say(format!("figure {}: {}", spec.figure.number, spec.title));
        let made =
            make(spec, args, &world, set.as_ref(), out).with_context(|| format!("figure {}", spec.figure.number))?;
        let section = publish(spec, made, &folder, &mut outlines)?;
        for claim in &section.claims {
            out.say(format!("  {} ({}): {}", claim.verdict.words(), claim.setting, claim.ours));
        }
        took.push((section.id.clone(), began.elapsed().as_secs_f64()));
        sections.push(section);
    }
    write_whole(&folder.join("outline.txt"), outlines.as_bytes())?;
    let paper = page::page(args, &world, sections, &took);
    let report = args.out.join("report.html");
    write_paper(&paper, &report)?;
    write_whole(&args.out.join("README.md"), page::readme(&paper).as_bytes())?;
    page::summary(&paper, &report, out)
}

/// What was measured on real sandboxes, where a figure wants it.
fn measured(args: &FiguresArgs, chosen: &[Spec], out: &Output) -> anyhow::Result<Option<Sandboxes>> {
    let wanted = chosen.iter().any(|s| s.figure.kind.of_sandboxes() || s.figure.kind == Kind::KeepAliveMemory);
    let Some(dumps) = &args.dumps else { return wanted.then(Sandboxes::shipped).transpose() };
    let mut set = Sandboxes::measure(dumps, &|line| out.say(line))?;
    if let Some(file) = &args.keep {
        set.keep(file)?;
        out.say(format!("wrote {}", file.display()));
    }
    if set.borrow_starts()? {
        let d = dumps.display();
        out.say(format!("no start times in {d}/starts.csv: those of config/sandboxes.toml stand in; medes measure --starts {d}/starts.csv measures them"));
    }
    Ok(Some(set))
}

fn make(spec: &Spec, args: &FiguresArgs, world: &World, set: Option<&Sandboxes>, out: &Output) -> anyhow::Result<Made> {
    let shipped;
    let set = match set {
        Some(set) => set,
        None => {
            shipped = Sandboxes::shipped()?;
            &shipped
        }
    };
    let from = if args.dumps.is_some() { "measured now" } else { "config/sandboxes.toml, measured before" };
    let of_dumps = |figures, tables| Made {
        figures,
        tables,
        claims: claims::of_sandboxes(&spec.statements, set),
        origin: format!(
            "{from}. Memory: {}.{}",
            set.origin,
            if set.starts_origin.is_empty() { String::new() } else { format!(" Start times: {}.", set.starts_origin) }
        ),
        notes: spec.figure.notes.clone(),
    };
    match spec.figure.kind {
        Kind::ChunkSize => return Ok(of_dumps(of_dumps::chunk_size(set), Vec::new())),
        Kind::BetweenFunctions => return Ok(of_dumps(of_dumps::between(set), Vec::new())),
        Kind::DedupStart => return Ok(of_dumps(of_dumps::dedup_start(set), Vec::new())),
        _ => {}
    }
    // The table's share of other nodes' base pages, and its trace, are simulated in either world: what is set for real runs is not for it.
    let simulated = spec.figure.kind == Kind::DedupTable;
    let world = if simulated { &World::Simulated } else { world };
    let set_for_real = args.backend == crate::Backend::Real && simulated;
    let prepared = prepare(spec, args, if set_for_real { &[] } else { &args.set }, world, out)?;
    if spec.figure.kind == Kind::DedupTable {
        let remote = remote_share(&prepared)?;
        let mut made = of_dumps(of_dumps::page_origins(set), of_dumps::dedup_table(set, remote));
        made.origin += &format!(" Other nodes' base pages: {}", origin(spec, &prepared, world));
        return Ok(made);
    }
    let mut made = Made { origin: origin(spec, &prepared, world), notes: spec.figure.notes.clone(), ..Made::default() };
    made.notes.extend(prepared.notes.iter().cloned());
    if spec.figure.kind == Kind::KeepAliveMemory {
        let found = keep_alive::run(&prepared, set)?;
        made.claims = spec.statements.iter().map(|s| claims::saved(s, found.saved)).collect();
        made.figures.push(found.figure);
        made.origin += &format!(" Redundancy: {from}. {}.", set.origin);
        return Ok(made);
    }
    let store = Store::open(&args.out)?;
    let finished = run_cells(&prepared, &store, args, world, out)?;
    let cells: Vec<CellData> = finished.cells.iter().map(crate::store::CellResult::data).collect();
    made.notes.extend(world::notes(&finished, &cells));
    made.claims = claims::of_runs(&spec.statements, &cells);
    made.figures = pictures(spec, &prepared, &store, &finished, &cells)?;
    for figure in made.figures.iter_mut().filter(|_| !spec.figure.words.is_empty()) {
        figure.title += &format!(", {}", spec.figure.words);
    }
    told(spec.figure.kind, &cells, &mut made);
    if let Some(beside) = &spec.figure.beside {
        let other = Spec::named(&beside.file)?;
        let prepared = prepare(&other, args, &args.set, world, out)?;
        let finished = run_cells(&prepared, &store, args, world, out)?;
        let there: Vec<CellData> = finished.cells.iter().map(crate::store::CellResult::data).collect();
        made.figures.extend(frontier::both(beside, &cells, &there));
        made.origin += &format!(" The pictures of both, beside it: {}", origin(&other, &prepared, world));
    }
    // The rows themselves, beside the figures that are drawn of them.
    let rows = Store::open(&args.out.join("rows").join(&spec.name))?;
    rows.summary(&finished.cells)?;
    rows.functions(&finished.cells)?;
    std::fs::remove_dir(rows.root().join("cells")).ok();
    Ok(made)
}

/// Tables and sentences that a figure of this kind has beside its pictures.
fn told(kind: Kind, cells: &[CellData], made: &mut Made) {
    match kind {
        Kind::Frontier => {
            let (table, notes) = frontier::standing(cells);
            made.tables.push(table);
            made.notes.extend(notes);
        }
        Kind::Parameters => made.tables.extend(spread::table(cells)),
        Kind::Surface => made.notes.extend(spread::best_of_surface(cells)),
        _ => {}
    }
    if !matches!(kind, Kind::Parameters | Kind::Surface) {
        made.tables.extend(evidence::table(cells));
    }
}

fn pictures(
    spec: &Spec,
    prepared: &Prepared,
    store: &Store,
    finished: &Finished,
    cells: &[CellData],
) -> anyhow::Result<Vec<Figure>> {
    let drawing = match spec.figure.kind {
        Kind::ColdPerFunction => Drawing::ColdPerFunction,
        Kind::TailPerFunction => Drawing::TailPerFunction,
        Kind::PerFunction => Drawing::PerFunction,
        Kind::Memory => Drawing::Memory,
        Kind::ColdByPool => Drawing::ColdByPool,
        Kind::Parameters => Drawing::Parameters,
        Kind::Surface => Drawing::Surface,
        Kind::Frontier => Drawing::Frontier,
        Kind::Improvement => return improvements(prepared, store, finished),
        Kind::ChunkSize | Kind::BetweenFunctions | Kind::DedupStart | Kind::DedupTable | Kind::KeepAliveMemory => {
            return Ok(Vec::new());
        }
    };
    Ok(of_kind(drawing, cells).figures)
}

/// Figures of improvements for each pool.
fn improvements(prepared: &Prepared, store: &Store, finished: &Finished) -> anyhow::Result<Vec<Figure>> {
    let names: Vec<String> = prepared.workload.functions.iter().map(|f| f.name.clone()).collect();
    let mut runs = Vec::new();
    for (cell, key) in finished.cells.iter().zip(&finished.keys) {
        runs.push(improvement::Run { cell, requests: store.latencies(key, &names)? });
    }
    let data: Vec<CellData> = finished.cells.iter().map(crate::store::CellResult::data).collect();
    let grid = medes_plots::grid::Grid::new(&data);
    let rivals: Vec<&str> = grid.policies.iter().copied().filter(|p| *p != "medes").collect();
    let of_pool = |pool: &medes_plots::grid::Pool| {
        let (stem, label) = (pool.stem(), pool.label.replace(' ', "\u{a0}"));
        improvement::figures(&runs, &rivals, pool.memcap_mb, &names).map(|figure| Figure {
            name: format!("{}_{stem}", figure.name),
            title: format!("{}, pool of {label}", figure.title),
            ..figure
        })
    };
    Ok(grid.pools.iter().flat_map(of_pool).collect())
}

/// Reads the experiment of a figure with its trace and profiles.
fn prepare(spec: &Spec, args: &FiguresArgs, given: &[String], world: &World, out: &Output) -> anyhow::Result<Prepared> {
    let own = world.overrides(spec, args.small);
    let overrides = |set: Vec<String>| Overrides {
        set,
        trace: args.trace.clone(),
        seeds: args.seed.clone(),
        reference: Vec::new(),
    };
    let set: Vec<String> = own.iter().chain(given).cloned().collect();
    let experiment = Experiment::parse(&spec.name, &spec.text, &overrides(set.clone()))?;
    let (profiles, profile_text) = crate::profiles::of(&experiment)?;
    let opened = medes_traces::open(&experiment.trace, &experiment.options)
        .with_context(|| format!("trace {}; without --trace the figures have a generated one", experiment.trace))?;
    let (opened, trimmed) = crate::trim(opened, &experiment)?;
    let workload = Workload::new(opened, experiment.functions, &profiles);
    anyhow::ensure!(
        workload.trace.requests() > 0,
        "the trace {} has no request to serve; check its window",
        experiment.trace
    );
    let mut prepared = Prepared {
        experiment,
        profiles: Arc::new(profiles),
        profile_text,
        workload,
        notes: trimmed.into_iter().collect(),
    };
    let pools_given = given.iter().any(|s| ["pool=", "memcap="].iter().any(|k| s.trim_start().starts_with(k)));
    if !spec.figure.scarcity.is_empty() && !pools_given && !world.is_real() {
        let listed = prepared.experiment.parameters.iter().find(|p| p.0 == "pool");
        let mut pools = listed.map(|p| p.1.clone()).unwrap_or_default();
        let scarce = scarce_pools(&prepared, &spec.figure.scarcity)?;
        let parts: Vec<String> = spec.figure.scarcity.iter().map(f64::to_string).collect();
        prepared.notes.push(format!(
            "The pool{} of {} GB {} {} of the largest memory that fixed keep-alive takes here where nothing caps it{}.",
            if scarce.len() > 1 { "s" } else { "" },
            scarce.join(", "),
            if scarce.len() > 1 { "are" } else { "is" },
            parts.join(", "),
            if pools.is_empty() { "" } else { "; the others are the paper's" },
        ));
        pools.extend(scarce);
        out.say(format!("pools of {} GB", pools.join(", ")));
        let mut set = set;
        set.push(format!("pool={}", pools.join(",")));
        prepared.experiment = Experiment::parse(&spec.name, &spec.text, &overrides(set))?;
    }
    Ok(prepared)
}

/// Pools in GB, as parts of the largest memory that fixed keep-alive takes where nothing caps it.
fn scarce_pools(prepared: &Prepared, parts: &[f64]) -> anyhow::Result<Vec<String>> {
    let mut setup = first_setup(prepared)?;
    setup.config.set("policy", "fixed")?;
    setup.config.eviction = None;
    setup.config.memcap = medes_engine::units::Bytes::from_mb(1e9);
    let demand = medes_sim::simulate(&setup, prepared.workload.arrivals(setup.seed), |_| {})?.summary.max_memory_mb;
    // Two significant digits: as an operator would write them.
    let rounded = |mb: f64| {
        let unit = 10f64.powf((mb / 1e3).log10().floor() - 1.0);
        let gb = (mb / 1e3 / unit).round() * unit;
        format!("{}", (gb * 1e6).round() / 1e6)
    };
    Ok(parts.iter().map(|part| rounded(part * demand)).collect())
}

/// The first cell's setup with the first seed.
fn first_setup(prepared: &Prepared) -> anyhow::Result<medes_sim::Setup> {
    let experiment = &prepared.experiment;
    let config = experiment.cells()?.into_iter().next().map(|c| c.config).unwrap_or_default();
    let length = prepared.workload.trace.length;
    Ok(medes_sim::Setup {
        config,
        profiles: prepared.profiles.clone(),
        functions: prepared.workload.functions.clone(),
        faults: Vec::new(),
        seed: experiment.seeds.first().copied().unwrap_or(1),
        length,
        interval: length,
        check: false,
        host: None,
    })
}

/// Share of the base pages read by dedup starts that other nodes hold, %; nothing if none were read.
fn remote_share(prepared: &Prepared) -> anyhow::Result<Option<f64>> {
    let setup = first_setup(prepared)?;
    let read = medes_sim::simulate(&setup, prepared.workload.arrivals(setup.seed), |_| {})?.base_pages;
    let all = read.local + read.remote;
    Ok((all > 0.0).then(|| 100.0 * read.remote / all))
}

/// Runs the cells that are not there yet, in the world asked for.
fn run_cells(
    prepared: &Prepared,
    store: &Store,
    args: &FiguresArgs,
    world: &World,
    out: &Output,
) -> anyhow::Result<Finished> {
    let jobs = args.jobs.or_else(|| std::thread::available_parallelism().ok()).map_or(1, std::num::NonZero::get);
    let simulated = Inputs {
        experiment: &prepared.experiment,
        profiles: prepared.profiles.clone(),
        profile_text: prepared.profile_text.clone(),
        workload: &prepared.workload,
        jobs,
        check: false,
        only: None,
        machines: None,
        hosts: None,
    };
    let World::Real(sites) = world else { return run::run(&simulated, store, out) };
    let cells = prepared.experiment.cells()?;
    let length_s = prepared.workload.trace.length.as_secs_f64() / prepared.experiment.real.time_scale;
    world::announce(cells.len() * prepared.experiment.seeds.len(), length_s, out);
    let nodes = cells.iter().map(|c| c.config.nodes).max().unwrap_or(1);
    // Cells of the real world would measure each other.
    sites.with(nodes, out, |machines| run::run(&Inputs { machines: Some(machines), jobs: 1, ..simulated }, store, out))
}

/// Where the rows of a figure come from, in a sentence.
fn origin(spec: &Spec, prepared: &Prepared, world: &World) -> String {
    let (e, trace) = (&prepared.experiment, &prepared.workload.trace);
    let seeds: Vec<String> = e.seeds.iter().map(u64::to_string).collect();
    let parameters: Vec<String> = e.parameters.iter().map(|(n, v)| format!("{n} = {}", v.join(", "))).collect();
    let scale = if e.real.time_scale == 1.0 { String::new() } else { format!(", {} times as fast", e.real.time_scale) };
    format!(
        "{}; experiments/paper/{}.toml; trace {} ({} functions of it, {} requests, {:.0} min{scale}); profile set {}; {}; seeds {}; \
         medes {} ({}).",
        world.words(),
        spec.name,
        e.trace,
        thousands(trace.functions.len() as u64),
        thousands(trace.requests()),
        trace.length.as_secs_f64() / 60.0,
        e.profile,
        parameters.join("; "),
        seeds.join(", "),
        env!("CARGO_PKG_VERSION"),
        crate::VERSION,
    )
}

/// Draws a figure's pictures under its number, and puts its part of the report together.
fn publish(spec: &Spec, made: Made, folder: &Path, outlines: &mut String) -> anyhow::Result<Section> {
    let mut drawn: Vec<DrawnFigure> = Vec::new();
    for figure in made.figures {
        let own = figure.name.clone();
        let name = if own.is_empty() { spec.stem() } else { format!("{}_{own}", spec.stem()) };
        let caption = format!("{} Origin: {}", figure.caption.trim_end(), made.origin);
        let figure = Figure { name, caption, ..figure };
        outlines.push_str(&figure.outline());
        outlines.push('\n');
        let short = figure.caption.split(" Origin: ").next().unwrap_or_default().to_owned();
        let files = medes_plots::draw(&figure, folder)?;
        // The origin stands under the pictures of a section once.
        drawn.push(DrawnFigure { caption: short, ..files });
    }
    for (i, table) in made.tables.iter().enumerate() {
        let suffix = if i == 0 { String::new() } else { format!("_{}", i + 1) };
        write_whole(&folder.join(format!("{}_table{suffix}.csv", spec.stem())), &of_dumps::csv(table)?)?;
    }
    let origin = format!("{}\n", made.origin);
    write_whole(&folder.join(format!("{}_origin.txt", spec.stem())), origin.as_bytes())?;
    Ok(Section {
        id: spec.figure.number.to_string(),
        title: spec.title.clone(),
        question: spec.question.clone(),
        expectation: spec.expectation.clone(),
        claims: made.claims,
        tables: made.tables,
        figures: drawn,
        origin: made.origin,
        notes: made.notes,
    })
}
