//! What is asked of Slurm's own programs, and how their answers are read.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use super::SlurmError;

/// A program that is not here, or one that said no.
#[derive(Debug)]
pub enum Trouble {
    Missing(SlurmError),
    Said(String),
}

/// A task that waits or runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// Its number in the array.
    pub number: usize,
    /// In Slurm's word: PENDING, RUNNING, COMPLETING...
    pub state: String,
    /// Why it waits.
    pub reason: String,
}

/// How a task ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// In Slurm's word: COMPLETED, FAILED, CANCELLED, TIMEOUT, NODE_FAIL, OUT_OF_MEMORY...
    pub state: String,
    /// Exit status and signal, as in `0:9`.
    pub exit: String,
    /// Where it ran.
    pub node: String,
}

/// Runs one of Slurm's programs in a process group of its own: a Ctrl-C is for this program, which leaves no job half-submitted.
fn slurm(program: &'static str, arguments: &[&std::ffi::OsStr]) -> Result<String, Trouble> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).process_group(0);
    // Options that the batch script has and a user's environment may not change.
    for name in ["SBATCH_ARRAY_INX", "SBATCH_JOB_NAME", "SBATCH_OUTPUT", "SBATCH_ERROR", "SBATCH_WAIT", "SQUEUE_FORMAT"]
    {
        command.env_remove(name);
    }
    let output = command.output().map_err(|source| Trouble::Missing(SlurmError::Missing { program, source }))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said: Vec<&str> = said.lines().map(|l| l.trim_start_matches(&format!("{program}: ")).trim()).collect();
    Err(Trouble::Said(if said.is_empty() {
        format!("{program} ended with {}", output.status)
    } else {
        said.join("; ")
    }))
}

/// Hands a batch script over and gives the job's number.
pub fn submit(script: &Path) -> Result<String, SlurmError> {
    match slurm("sbatch", &["--parsable".as_ref(), script.as_os_str()]) {
        // On clusters of clusters: `number;cluster`.
        Ok(said) => Ok(said.trim().split(';').next().unwrap_or_default().to_owned()),
        Err(Trouble::Missing(e)) => Err(e),
        Err(Trouble::Said(said)) => Err(SlurmError::Refused { mend: mend(&said), said }),
    }
}

/// What may help against a refusal.
fn mend(said: &str) -> String {
    if said.contains("artition") {
        let known = slurm("sinfo", &["--noheader".as_ref(), "--format=%R".as_ref()]).unwrap_or_else(|_| String::new());
        let known: Vec<&str> = known.split_whitespace().collect();
        let known = if known.is_empty() { "`sinfo` lists them".to_owned() } else { known.join(", ") };
        return format!("choose another with --partition; partitions here: {known}");
    }
    if said.contains("array") {
        return "the cluster allows fewer tasks in an array (`scontrol show config | grep MaxArraySize`): give --tasks N".to_owned();
    }
    if said.contains("contact") || said.contains("onfiguration") {
        return "no controller answers: does `sinfo` work here? SLURM_CONF names the configuration where it is not the usual one"
            .to_owned();
    }
    "what a site asks for (account, time limit, memory) can be given in the environment: SBATCH_ACCOUNT, SBATCH_TIMELIMIT, \
     SBATCH_QOS, SBATCH_MEM_PER_CPU (`man sbatch`, INPUT ENVIRONMENT VARIABLES)"
        .to_owned()
}

/// The tasks of a job, by its name, that have not ended.
pub fn alive(name: &str) -> Result<Vec<Task>, Trouble> {
    let name = format!("--name={name}");
    let said =
        slurm("squeue", &["--noheader".as_ref(), "--array".as_ref(), name.as_ref(), "--format=%K|%T|%r".as_ref()])?;
    Ok(read_alive(&said))
}

fn read_alive(said: &str) -> Vec<Task> {
    said.lines()
        .filter_map(|line| {
            let mut parts = line.trim().splitn(3, '|');
            let number = parts.next()?.parse().ok()?;
            Some(Task { number, state: parts.next()?.to_owned(), reason: parts.next().unwrap_or_default().to_owned() })
        })
        .collect()
}

/// How the tasks of a job ended, as long as Slurm remembers (by its setting MinJobAge, usually five minutes).
pub fn ends(job: &str) -> BTreeMap<usize, End> {
    let arguments: [&std::ffi::OsStr; 4] = ["--oneliner".as_ref(), "show".as_ref(), "job".as_ref(), job.as_ref()];
    read_ends(&slurm("scontrol", &arguments).unwrap_or_else(|_| String::new()))
}

fn read_ends(said: &str) -> BTreeMap<usize, End> {
    let value = |line: &str, key: &str| {
        let word = line.split_whitespace().find_map(|w| w.strip_prefix(key)?.strip_prefix('='));
        word.unwrap_or_default().to_owned()
    };
    said.lines()
        .filter_map(|line| {
            let number = value(line, "ArrayTaskId").parse().ok()?;
            let end =
                End { state: value(line, "JobState"), exit: value(line, "ExitCode"), node: value(line, "NodeList") };
            Some((number, end))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_are_read_as_squeue_prints_them() {
        let said = "0|RUNNING|None\n12|PENDING|Nodes required for job are DOWN, DRAINED or reserved\n";
        let tasks = read_alive(said);
        assert_eq!(tasks.len(), 2);
        assert_eq!((tasks[0].number, tasks[0].state.as_str()), (0, "RUNNING"));
        assert_eq!(tasks[1].number, 12);
        assert!(tasks[1].reason.ends_with("reserved"));
        assert_eq!(read_alive("\nN/A|RUNNING|None\n"), []);
    }

    #[test]
    fn ends_are_read_as_scontrol_prints_them() {
        let said = "JobId=6 ArrayJobId=1 ArrayTaskId=4 JobName=medes-x JobState=FAILED Reason=NonZeroExitCode ExitCode=75:0 \
                    ReqNodeList=(null) NodeList=n1 BatchHost=n1\nJobId=1 ArrayJobId=1 ArrayTaskId=5-9 JobState=PENDING\n";
        let ends = read_ends(said);
        let end = End { state: "FAILED".into(), exit: "75:0".into(), node: "n1".into() };
        assert_eq!(ends, BTreeMap::from([(4, end)]));
    }
}
