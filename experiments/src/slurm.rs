//! `medes run --on slurm`: cells as the tasks of a Slurm job array.
//!
//! All that the two sides share is the result folder. The submitting side writes a submission (`slurm/NAME/`: which task runs which
//! cells, and a batch script) and hands the script to `sbatch`; a task runs this program with the same arguments and writes its
//! cells into the store, as a local run does; the submitting side watches them appear, and asks Slurm only who is still alive.
//! So nothing has to be gathered, a cell that is there is never run again, and it does not matter who looks on.

mod client;
mod follow;
mod submission;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::File;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use crate::output::Output;
use crate::run::{Finished, Inputs, Job, cost, jobs};
use crate::store::Store;
pub use submission::task_cells;
use submission::{Submission, assign};

/// Tasks of a job where the user names no number: enough for a cluster's partition, few enough for its limits.
const TASKS: usize = 200;

/// What the user wants of Slurm.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// Where; the cluster's default without one.
    pub partition: Option<String>,
    /// Array tasks at most.
    pub tasks: Option<NonZeroUsize>,
    /// Cores of a task, each of which runs a cell.
    pub cores: usize,
    /// This program's arguments, for the tasks to be given as they were.
    pub arguments: Vec<OsString>,
}

/// Why a run on Slurm did not end well.
#[derive(Debug, thiserror::Error)]
pub enum SlurmError {
    /// A program of Slurm is not here.
    #[error(
        "cannot run `{program}`: {source}. --on slurm is for a machine from which jobs are submitted, such as a login node. \
         Debian and Ubuntu have its programs in slurm-client; scripts/slurm-lab starts a whole Slurm for trying"
    )]
    Missing {
        /// Its name.
        program: &'static str,
        /// Why it does not start.
        source: std::io::Error,
    },
    /// `sbatch` says no.
    #[error("Slurm took no job: {said}\n{mend}")]
    Refused {
        /// Its words.
        said: String,
        /// What may help.
        mend: String,
    },
    /// `squeue` has no answer, and a job may be there.
    #[error(
        "cannot ask Slurm whether job {name} is alive: {said}. Nothing was submitted, lest cells run twice; \
         if that cluster is gone for good, remove {}", folder.display()
    )]
    Unknown {
        /// The job's name.
        name: String,
        /// Where its record is.
        folder: PathBuf,
        /// Slurm's words.
        said: String,
    },
    /// The arguments cannot be handed on.
    #[error("{0}")]
    Argument(String),
    /// A file of a submission cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A task was given cells that it does not know.
    #[error(
        "{unknown} of this task's cells are none of this command as seen from here: the program, the trace or a file of the \
         command differ between the machine that submitted and this node ({})", path.display()
    )]
    OtherInputs {
        /// How many.
        unknown: usize,
        /// The plan.
        path: PathBuf,
    },
    /// Ctrl-C.
    #[error(
        "stopped following; {0} go on. The same command follows them again and gathers the results; `squeue --name={1}` shows \
         them, `scancel --name={1}` ends them (finished cells are kept)"
    )]
    Left(String, String),
    /// Cells have not come.
    #[error("{0}")]
    Unfinished(String),
    /// The cells themselves.
    #[error("{0:#}")]
    Cells(anyhow::Error),
}

impl SlurmError {
    /// Whether what the user gave is at fault, not what happened in the run.
    pub fn is_input(&self) -> bool {
        matches!(self, Self::Missing { .. } | Self::Refused { .. } | Self::Argument(_))
    }
}

/// Submits the cells that neither are in the store nor belong to a live task, follows them to their end, and gathers.
pub fn run(inputs: &Inputs<'_>, store: &Store, wish: &Wish, out: &Output) -> Result<Finished, SlurmError> {
    let jobs = jobs(inputs).map_err(SlurmError::Cells)?;
    let missing: Vec<&Job> = jobs.iter().filter(|j| store.find(&j.key).is_none()).collect();
    let found = jobs.len() - missing.len();
    if found > 0 {
        out.say(format!("{found} of {} cells are there from an earlier run", jobs.len()));
    }
    // A file that cannot be read is no cell: whoever watches for it to appear must not take it for one.
    missing.iter().for_each(|j| store.discard(&j.key));
    if !missing.is_empty() {
        let submissions = begin(inputs, &missing, store, wish, out)?;
        follow::follow(&missing, &submissions, store, out)?;
    }
    let cells = jobs.iter().map(|j| {
        let gone =
            || SlurmError::Unfinished(format!("cell {} was there and is gone; the same command runs it again", j.key));
        store.find(&j.key).ok_or_else(gone)
    });
    Ok(Finished {
        cells: cells.collect::<Result<_, _>>()?,
        keys: jobs.iter().map(|j| j.key.clone()).collect(),
        found,
        real: false,
    })
}

/// The submissions whose tasks run the missing cells: earlier ones that are alive, and one for the rest.
fn begin(
    inputs: &Inputs<'_>,
    missing: &[&Job],
    store: &Store,
    wish: &Wish,
    out: &Output,
) -> Result<Vec<Submission>, SlurmError> {
    let folder = store.root().join("slurm");
    let file = |path: &Path| {
        let path = path.to_owned();
        move |source| SlurmError::File { path, source }
    };
    std::fs::create_dir_all(&folder).map_err(file(&folder))?;
    // Two calls at once must not both find that nothing is submitted. Where a file system has no locks, they may; no row doubles.
    let lock = File::create(folder.join("lock")).map_err(file(&folder))?;
    lock.lock().ok();

    let mut uncovered: BTreeSet<&str> = missing.iter().map(|j| j.key.as_str()).collect();
    let mut live = Vec::new();
    for submission in Submission::all(&folder)? {
        if !submission.tasks.iter().flatten().any(|k| uncovered.contains(k.as_str())) {
            continue;
        }
        let tasks = client::alive(&submission.name).map_err(|e| match e {
            client::Trouble::Missing(e) => e,
            client::Trouble::Said(said) => {
                SlurmError::Unknown { name: submission.name.clone(), folder: submission.folder.clone(), said }
            }
        })?;
        let keys: Vec<&String> = tasks.iter().filter_map(|t| submission.tasks.get(t.number)).flatten().collect();
        if keys.iter().any(|k| uncovered.contains(k.as_str())) {
            out.say(format!("job {} is there from an earlier call: following it", submission.called()));
            uncovered.retain(|k| !keys.iter().any(|x| x == k));
            live.push(submission);
        }
    }
    let rest: Vec<&Job> = missing.iter().copied().filter(|j| uncovered.contains(j.key.as_str())).collect();
    if !rest.is_empty() {
        let costs: Vec<f64> = rest.iter().map(|j| cost(j)).collect();
        let tasks = wish.tasks.map_or(TASKS, NonZeroUsize::get);
        let tasks: Vec<Vec<String>> = assign(&costs, tasks)
            .into_iter()
            .map(|cells| cells.into_iter().map(|i| rest[i].key.clone()).collect())
            .collect();
        let submission = Submission::new(&folder, &inputs.experiment.name, tasks)?.submit(wish, store.root())?;
        out.say(format!(
            "submitted {} cells in {} tasks as job {}; batch script and logs: {}",
            rest.len(),
            submission.tasks.len(),
            submission.called(),
            submission.folder.display()
        ));
        live.push(submission);
    }
    Ok(live)
}

/// On a node: whether the task's cells are cells of this command.
pub fn check_task(inputs: &Inputs<'_>, plan: &Path) -> Result<(), SlurmError> {
    let known: BTreeSet<String> = jobs(inputs).map_err(SlurmError::Cells)?.into_iter().map(|j| j.key).collect();
    match inputs.only.iter().flatten().filter(|k| !known.contains(*k)).count() {
        0 => Ok(()),
        unknown => Err(SlurmError::OtherInputs { unknown, path: plan.to_owned() }),
    }
}
