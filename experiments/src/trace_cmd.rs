//! `medes trace`: what a trace is like, a part of one, one that is generated, one in another form.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand, ValueEnum};
use medes_traces::sample::{Choice, choose};
use medes_traces::stats::Stats;
use medes_traces::{Trace, TraceKind, TraceOptions, TraceSpec, Window, open, write};
use serde_json::{Value, json};

use crate::output::Output;

/// Look at traces, cut samples from them, generate them, convert them.
#[derive(Clone, Debug, Subcommand)]
pub enum TraceCmd {
    /// Statistics of a trace beside the published ones, and what was odd in its files.
    #[command(after_help = "Examples:\n  \
        medes trace stats azure2019:~/azure/                   all days of a folder\n  \
        medes trace stats azure2019:~/azure/ --days 1 --window 480..959\n  \
        medes trace stats azure-like --set functions=400 --set minutes=1440\n\n\
        SPEC is KIND:PATH with azure2019 (folder of days, or one invocations file), azure2021, invitro\n\
        (folder), requests, csv; or azure-like, which is generated.")]
    Stats {
        /// KIND:PATH, or azure-like.
        spec: TraceSpec,
        #[command(flatten)]
        read: ReadArgs,
    },
    /// A part of a trace's functions, written in the Azure 2019 form.
    #[command(after_help = "Examples:\n  \
        medes trace sample azure2019:~/azure/ --days 1 --functions 400 --seed 7 --out sample/\n  \
        medes trace sample azure2019:~/azure/ --functions 100 --window 480..599 --choice uniform --out s/\n\n\
        The recorded rows are written as they are; minutes outside the window are 0. Each function has the\n\
        arrivals that it has in the whole trace.")]
    Sample {
        /// KIND:PATH, or azure-like.
        spec: TraceSpec,
        /// How many functions.
        #[arg(long)]
        functions: usize,
        /// Seed of the choice.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// How they are chosen.
        #[arg(long, value_enum, default_value_t = ChoiceArg::Stratified)]
        choice: ChoiceArg,
        /// Folder to write to.
        #[arg(long)]
        out: PathBuf,
        /// Write into a folder that has files in it.
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        read: ReadArgs,
    },
    /// Generate a trace like Azure's of 2019, written in its form.
    #[command(after_help = "Examples:\n  \
        medes trace synth --functions 400 --minutes 1440 --invocations 1500000 --out day400/\n  \
        medes trace synth --functions 46412 --minutes 1440 --invocations 909783379 --out day/\n\n\
        Without files the same trace is `azure-like`, with functions, minutes, invocations and\n\
        generator_seed in the [trace] table of an experiment.")]
    Synth {
        /// How many functions.
        #[arg(long)]
        functions: u32,
        /// How many minutes; a day has 1440.
        #[arg(long)]
        minutes: u32,
        /// How many invocations in all; 3,750 a function and day where not given.
        #[arg(long)]
        invocations: Option<u64>,
        /// Seed of the functions and their counts.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Folder to write to.
        #[arg(long)]
        out: PathBuf,
        /// Write into a folder that has files in it.
        #[arg(long)]
        force: bool,
    },
    /// Write a trace in another form.
    #[command(after_help = "Examples:\n  \
        medes trace convert azure2019:~/azure/ --days 1 --window 1..60 --to csv --out hour.csv\n  \
        medes trace convert azure2021:trace.txt --to azure2019 --out days/\n  \
        medes trace convert azure-like --to requests --out requests.txt\n\n\
        csv and requests list every arrival, those of --seed; azure2019 and invitro hold counts a minute.")]
    Convert {
        /// KIND:PATH, or azure-like.
        spec: TraceSpec,
        /// The form.
        #[arg(long, value_enum)]
        to: Form,
        /// Seed of the times within the minutes and of the durations.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// File (csv, requests) or folder (azure2019, invitro) to write to.
        #[arg(long)]
        out: PathBuf,
        /// Write over a file, or into a folder that has files in it.
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        read: ReadArgs,
    },
}

/// How a trace is read.
#[derive(Args, Clone, Debug)]
pub struct ReadArgs {
    /// Minutes wanted, both included, counted from 1.
    #[arg(long, value_name = "A..B")]
    window: Option<Window>,
    /// Days wanted of a folder of days.
    #[arg(long, value_name = "N,N", value_delimiter = ',')]
    days: Option<Vec<u32>>,
    /// Any key of the [trace] table, as functions=400 or app_memory=divided; may be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

/// How functions are chosen.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum ChoiceArg {
    /// One from each of equal strata by popularity.
    Stratified,
    /// Each as likely as any other.
    Uniform,
}

/// A form to write.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Form {
    /// Every arrival as time,function,duration,memory.
    Csv,
    /// Every arrival as <timestamp ms> <application> <environment>.
    Requests,
    /// Counts a minute, three files a day.
    Azure2019,
    /// Counts a minute, three files.
    Invitro,
}

impl ReadArgs {
    fn options(&self) -> Result<TraceOptions> {
        let mut table = toml::Table::new();
        for setting in &self.set {
            let Some((key, value)) = setting.split_once('=') else {
                bail!("--set {setting}: there is no `=`; write KEY=VALUE, as functions=400");
            };
            // A value that is none of TOML's is text, so that quotes need not be written.
            let parsed = format!("value = {value}").parse::<toml::Table>();
            let value = parsed.ok().and_then(|mut table| table.remove("value"));
            let value = value.unwrap_or_else(|| toml::Value::String(setting[key.len() + 1..].to_owned()));
            table.insert(key.trim().to_owned(), value);
        }
        let mut options: TraceOptions = table.try_into().context("--set: a key of the [trace] table is wrong")?;
        options.window = self.window.or(options.window);
        options.days = self.days.clone().or(options.days);
        Ok(options)
    }
}

/// Runs the command.
///
/// # Errors
/// What was wrong with the trace or the arguments (a [`medes_traces::TraceError`] inside, where it is one of
/// a trace), or that something could not be written.
pub fn run(command: &TraceCmd, output: &Output) -> Result<()> {
    match command {
        TraceCmd::Stats { spec, read } => {
            let trace = open(spec, &read.options()?)?;
            let stats = Stats::of(&trace);
            let text = format!("{stats}\nRead\n{}", trace.report);
            print(output, &json!({ "stats": stats, "report": trace.report }), &text)
        }
        TraceCmd::Sample { spec, functions, seed, choice, out, force, read } => {
            let options = read.options()?;
            let trace = open(spec, &options)?;
            let choice = match choice {
                ChoiceArg::Stratified => Choice::Stratified,
                ChoiceArg::Uniform => Choice::Uniform,
            };
            let part = trace.only(&choose(&trace, *functions, choice, *seed)?);
            empty(out, *force)?;
            written(output, &part, TraceKind::Azure2019, out, write::azure2019(&part, out)?)
        }
        TraceCmd::Synth { functions, minutes, invocations, seed, out, force } => {
            let options = TraceOptions {
                functions: *functions,
                minutes: *minutes,
                invocations: *invocations,
                generator_seed: *seed,
                ..TraceOptions::default()
            };
            let trace = open(&"azure-like".parse()?, &options)?;
            empty(out, *force)?;
            written(output, &trace, TraceKind::Azure2019, out, write::azure2019(&trace, out)?)
        }
        TraceCmd::Convert { spec, to, seed, out, force, read } => {
            let trace = open(spec, &read.options()?)?;
            empty(out, *force)?;
            let (kind, files) = match to {
                Form::Csv => (TraceKind::Csv, write::csv(&trace, out, *seed).map(|()| vec![out.clone()])?),
                Form::Requests => {
                    (TraceKind::Requests, write::requests(&trace, out, *seed).map(|()| vec![out.clone()])?)
                }
                Form::Azure2019 => (TraceKind::Azure2019, write::azure2019(&trace, out)?),
                Form::Invitro => (TraceKind::Invitro, write::invitro(&trace, out)?),
            };
            written(output, &trace, kind, out, files)
        }
    }
}

/// Refuses to write where something is already, unless told to.
fn empty(out: &Path, force: bool) -> Result<()> {
    let taken = match std::fs::metadata(out) {
        Err(_) => false,
        Ok(meta) if meta.is_dir() => {
            let mut entries = std::fs::read_dir(out).with_context(|| format!("{}", out.display()))?;
            entries.next().is_some()
        }
        Ok(_) => true,
    };
    if taken && !force {
        bail!("{}: there is something already; name another place, or add --force", out.display());
    }
    Ok(())
}

/// Says what was written, and how to read it.
fn written(output: &Output, trace: &Trace, kind: TraceKind, out: &Path, files: Vec<PathBuf>) -> Result<()> {
    let spec = TraceSpec { kind, path: out.to_path_buf() }.to_string();
    let files: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
    let value = json!({
        "functions": trace.functions.len(),
        "minutes": trace.minutes(),
        "requests": trace.requests(),
        "files": files,
        "trace": spec,
    });
    let mut text =
        format!("{} functions, {} minutes, {} requests\n", trace.functions.len(), trace.minutes(), trace.requests());
    for file in files {
        text += &format!("  {file}\n");
    }
    text += &format!("read it as {spec}");
    if kind == TraceKind::Azure2019 && !trace.minutes().is_multiple_of(1440) {
        text += "; its days have all 1440 minutes: choose the same ones with --window";
    }
    print(output, &value, &(text + "\n"))
}

fn print(output: &Output, value: &Value, text: &str) -> Result<()> {
    let text = if output.json { serde_json::to_string_pretty(value)? } else { text.trim_end().to_owned() };
    output.print(text);
    Ok(())
}
