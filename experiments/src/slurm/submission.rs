//! One job array: which task runs which cells, on record in the result folder, and the batch script.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::{SlurmError, Wish, client};

/// Exit status of a task whose node has neither the working folder nor the plan.
pub const NO_FOLDER: &str = "72:0";
/// Exit status of a task whose node does not have this program.
pub const NO_PROGRAM: &str = "73:0";
/// Exit status of a task that may not write into the result folder.
pub const NO_WRITING: &str = "74:0";

/// The file that says which task runs which cells.
const PLAN: &str = "plan.json";

/// A job array. Its name is its identity: it is on record before the job exists, and no cluster gives it twice.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Submission {
    /// The job's name.
    pub name: String,
    /// The number that Slurm gave it.
    pub job: Option<String>,
    /// Keys of the cells of each task.
    pub tasks: Vec<Vec<String>>,
    /// Where it is on record.
    #[serde(skip)]
    pub folder: PathBuf,
}

impl Submission {
    /// Puts a new one on record under `folder`.
    pub fn new(folder: &Path, experiment: &str, tasks: Vec<Vec<String>>) -> Result<Self, SlurmError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let seed = format!("{} {now} {}", folder.display(), std::process::id());
        let plain: String =
            experiment.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(32).collect();
        let name = format!("medes-{plain}-{:08x}", xxhash_rust::xxh3::xxh3_64(seed.as_bytes()) >> 32);
        let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned()).join(&name);
        let submission = Self { name, job: None, tasks, folder };
        std::fs::create_dir_all(&submission.folder).map_err(|e| submission.file(e))?;
        submission.save()?;
        Ok(submission)
    }

    /// All that are on record under `folder`; what cannot be read was never submitted.
    pub fn all(folder: &Path) -> Result<Vec<Self>, SlurmError> {
        let file = |source| SlurmError::File { path: folder.to_owned(), source };
        let mut all = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(file)? {
            let folder = entry.map_err(file)?.path();
            let Ok(text) = std::fs::read_to_string(folder.join(PLAN)) else { continue };
            if let Ok(submission) = serde_json::from_str::<Self>(&text) {
                all.push(Self { folder: std::path::absolute(&folder).unwrap_or(folder), ..submission });
            }
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    /// Number and name, or the name alone.
    pub fn called(&self) -> String {
        self.job.as_ref().map_or_else(|| self.name.clone(), |job| format!("{job} ({})", self.name))
    }

    /// Where a task writes what it says.
    pub fn log(&self, task: usize) -> PathBuf {
        self.folder.join(format!("task-{task}.log"))
    }

    fn file(&self, source: std::io::Error) -> SlurmError {
        SlurmError::File { path: self.folder.clone(), source }
    }

    fn save(&self) -> Result<(), SlurmError> {
        let text = serde_json::to_string_pretty(self).map_err(|e| self.file(e.into()))?;
        crate::store::write_whole(&self.folder.join(PLAN), text.as_bytes())
            .map_err(|e| self.file(std::io::Error::other(format!("{e:#}"))))
    }

    /// Writes the batch script and hands it to Slurm; what was refused leaves no record.
    pub fn submit(mut self, wish: &Wish, out: &Path) -> Result<Self, SlurmError> {
        let submitted = self.script(wish, out).and_then(|text| {
            let path = self.folder.join("script.sh");
            std::fs::write(&path, text).map_err(|e| self.file(e))?;
            client::submit(&path)
        });
        match submitted {
            Ok(job) => {
                self.job = Some(job);
                self.save()?;
                Ok(self)
            }
            Err(e) => {
                std::fs::remove_dir_all(&self.folder).ok();
                Err(e)
            }
        }
    }

    fn script(&self, wish: &Wish, out: &Path) -> Result<Vec<u8>, SlurmError> {
        let here = std::env::current_dir().map_err(|e| self.file(e))?;
        let program = std::env::current_exe().map_err(|e| self.file(e))?;
        let mut text = format!(
            "#!/bin/bash\n\
             # Written by `medes run --on slurm`. Task N runs the cells of list N in plan.json; those that are there it leaves alone.\n\
             #SBATCH --job-name={}\n#SBATCH --array=0-{}\n#SBATCH --nodes=1\n#SBATCH --ntasks=1\n#SBATCH --cpus-per-task={}\n\
             #SBATCH --output=/dev/null\n",
            self.name,
            self.tasks.len().saturating_sub(1),
            wish.cores.max(1),
        )
        .into_bytes();
        if let Some(partition) = &wish.partition {
            if partition.is_empty() || partition.contains(|c: char| c.is_whitespace() || "#'\"\\".contains(c)) {
                return Err(SlurmError::Argument(format!(
                    "--partition `{partition}` is no name of a partition; `sinfo` lists them"
                )));
            }
            text.extend(format!("#SBATCH --partition={partition}\n").bytes());
        }
        let plan = self.folder.join(PLAN);
        let mut log = quoted(self.folder.join("task-").as_os_str());
        log.extend(b"\"$SLURM_ARRAY_TASK_ID\".log");
        let lines: [(&[u8], Vec<u8>, &[u8]); 6] = [
            (b"cd -- ", quoted(here.as_os_str()), b" && [ -r "),
            (b"", quoted(plan.as_os_str()), b" ] || exit 72\n"),
            (b"[ -x ", quoted(program.as_os_str()), b" ] || exit 73\n"),
            (b"(: >", log.clone(), b") || exit 74\n"),
            (b"exec >", log, b" 2>&1\n"),
            (b"exec ", self.command(&program, &plan, wish, out), b"\n"),
        ];
        for (before, word, after) in lines {
            text.extend(before);
            text.extend(word);
            text.extend(after);
        }
        Ok(text)
    }

    /// This program with the arguments it was given, told which plan to follow.
    fn command(&self, program: &Path, plan: &Path, wish: &Wish, out: &Path) -> Vec<u8> {
        let mut words: Vec<OsString> = vec![program.into()];
        let given = wish.arguments.iter();
        let named = given.clone().any(|a| a == "--out" || a.as_bytes().starts_with(b"--out="));
        for argument in given {
            words.push(argument.clone());
            // Right behind the command's name: before a `--` that makes everything after it a file.
            if argument == "run" && !words.iter().any(|w| w == "--slurm-task") {
                words.extend(["--slurm-task".into(), plan.into()]);
                if !named {
                    words.extend(["--out".into(), std::path::absolute(out).unwrap_or_else(|_| out.to_owned()).into()]);
                }
            }
        }
        words.iter().map(|w| quoted(w)).collect::<Vec<_>>().join(&b' ')
    }
}

/// A word that a shell gives back as it was.
fn quoted(word: &OsStr) -> Vec<u8> {
    let mut text = vec![b'\''];
    for byte in word.as_bytes() {
        match byte {
            b'\'' => text.extend(b"'\\''"),
            other => text.push(*other),
        }
    }
    text.push(b'\'');
    text
}

/// Cells to tasks, the longest first and each to the task that has least to do so far. A task's cells stand in that order too.
pub fn assign(costs: &[f64], tasks: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..costs.len()).collect();
    order.sort_by(|a, b| costs[*b].total_cmp(&costs[*a]));
    let mut lists = vec![(0.0_f64, Vec::new()); tasks.clamp(1, costs.len().max(1))];
    for i in order {
        if let Some(least) = lists.iter_mut().min_by(|a, b| a.0.total_cmp(&b.0).then(a.1.len().cmp(&b.1.len()))) {
            least.0 += costs[i];
            least.1.push(i);
        }
    }
    lists.into_iter().map(|l| l.1).collect()
}

/// On a node: the cells that this task is to run.
pub fn task_cells(plan: &Path) -> Result<BTreeSet<String>, SlurmError> {
    let file = |source| SlurmError::File { path: plan.to_owned(), source };
    let text = std::fs::read_to_string(plan).map_err(file)?;
    let submission: Submission = serde_json::from_str(&text).map_err(|e| file(e.into()))?;
    let number = std::env::var("SLURM_ARRAY_TASK_ID").ok().and_then(|n| n.parse::<usize>().ok());
    let cells = number.and_then(|n| submission.tasks.into_iter().nth(n)).ok_or_else(|| {
        SlurmError::Argument(format!(
            "SLURM_ARRAY_TASK_ID names no task of {}: this is for Slurm's tasks",
            plan.display()
        ))
    })?;
    Ok(cells.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_spread_so_that_tasks_take_equally_long() {
        // The classic case: longest first gives 9, in the order given it would be 5 + 2 + 3 = 10 against 8.
        let tasks = assign(&[5.0, 4.0, 2.0, 3.0, 4.0], 2);
        assert_eq!(tasks, [vec![0, 3, 2], vec![1, 4]]);
        // More tasks than cells: no task without a cell. None at all: one, empty.
        assert_eq!(assign(&[1.0, 1.0], 5), [vec![0], vec![1]]);
        assert_eq!(assign(&[], 3), [Vec::<usize>::new()]);
        // Cells that cost nothing are spread too.
        assert_eq!(assign(&[0.0; 4], 2), [vec![0, 2], vec![1, 3]]);
    }

    #[test]
    fn a_shell_gives_back_what_was_quoted() {
        let word = OsStr::from_bytes(b"it's \"a\" $HOME `x` \\ * \n\xff");
        let mut script = b"printf %s ".to_vec();
        script.extend(quoted(word));
        let out = std::process::Command::new("bash").arg("-c").arg(OsStr::from_bytes(&script)).output().unwrap();
        assert_eq!(out.stdout, word.as_bytes());
    }

    #[test]
    fn the_script_has_the_arguments_as_given_and_the_plan_beside_the_command() {
        let dir = tempfile::tempdir().unwrap();
        let tasks = vec![vec!["a".to_owned()], vec!["b".to_owned()], vec!["c".to_owned()]];
        let submission = Submission::new(dir.path(), "my sweep/1", tasks).unwrap();
        assert!(submission.name.starts_with("medes-my-sweep-1-"), "{}", submission.name);
        let arguments = ["--quiet", "run", "--set", "trace.source=a b'c", "--on", "slurm", "--", "run"];
        let arguments = arguments.map(OsString::from).to_vec();
        let wish = Wish { arguments, cores: 2, partition: Some("long".into()), ..Wish::default() };
        let text = String::from_utf8(submission.script(&wish, Path::new("/shared/out")).unwrap()).unwrap();
        for line in ["#SBATCH --array=0-2\n", "#SBATCH --cpus-per-task=2\n", "#SBATCH --partition=long\n"] {
            assert!(text.contains(line), "{text}");
        }
        let plan = submission.folder.join(PLAN);
        let command = format!(
            "'--quiet' 'run' '--slurm-task' '{}' '--out' '/shared/out' '--set' 'trace.source=a b'\\''c' '--on' 'slurm' '--' 'run'\n",
            plan.display()
        );
        assert!(text.ends_with(&command), "{text}");
        let bad = Wish { partition: Some("a b".into()), ..wish };
        assert!(submission.script(&bad, dir.path()).unwrap_err().is_input());
        let all = Submission::all(dir.path()).unwrap();
        assert_eq!((all.len(), &all[0].name, all[0].tasks.len()), (1, &submission.name, 3));
    }
}
