//! Control groups, where there are any: they cap a sandbox's memory, freeze it, and know all its processes.
//!
//! Version 2 wherever it is mounted (beside version 1 it has no memory controller but still freezes and kills), version 1's
//! `memory` and `freezer` for what version 2 lacks. Without any, sandboxes have no cap, are stopped by SIGSTOP and found by their tree.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use medes_engine::units::Bytes;

/// Where groups are made on this machine.
#[derive(Clone, Debug, Default)]
pub struct Cgroups {
    two: Option<PathBuf>,
    memory_one: Option<PathBuf>,
    freezer_one: Option<PathBuf>,
}

/// Mount points of cgroup file systems: version 2, and version 1's memory and freezer.
fn mounts() -> Cgroups {
    mounted(&fs::read_to_string("/proc/self/mounts").unwrap_or_default())
}

/// Those of a table of mounts: the first of each kind, the system's. CRIU mounts some for itself while it dumps, which are gone in a moment.
fn mounted(text: &str) -> Cgroups {
    let mut out = Cgroups::default();
    for line in text.lines() {
        let mut fields = line.split(' ').skip(1);
        let (Some(path), Some(kind), Some(options)) = (fields.next(), fields.next(), fields.next()) else { continue };
        let has = |name| options.split(',').any(|o| o == name);
        let place = match kind {
            "cgroup2" => &mut out.two,
            "cgroup" if has("memory") => &mut out.memory_one,
            "cgroup" if has("freezer") => &mut out.freezer_one,
            _ => continue,
        };
        if !path.contains("/.criu.") {
            place.get_or_insert_with(|| path.into());
        }
    }
    out
}

/// Where a sandbox's memory is capped on this machine, for people.
///
/// # Errors
/// No cgroup that is mounted has the memory controller; how to get one.
pub fn memory_caps() -> Result<String, String> {
    let all = mounts();
    let controls = |root: &PathBuf| {
        let text = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
        text.split_whitespace().any(|c| c == "memory")
    };
    match (all.two.filter(controls), all.memory_one) {
        (Some(root), _) => Ok(format!("version 2, {}", root.display())),
        (None, Some(root)) => Ok(format!("version 1, {}", root.display())),
        (None, None) => Err("mount one that has the memory controller below /sys/fs/cgroup".into()),
    }
}

impl Cgroups {
    /// What there is and may be written to, with a folder `name` of ours in each; `record` is told of each before it is made.
    ///
    /// # Errors
    /// Only `record`'s: a hierarchy that refuses is done without.
    pub fn new(name: &str, record: impl Fn(&Path) -> io::Result<()>) -> io::Result<Self> {
        let mut out = mounts();
        if let Some(root) = &out.two {
            // Refused where version 1 has the controller, or where processes live in the root.
            let _ = fs::write(root.join("cgroup.subtree_control"), "+memory");
        }
        for place in [&mut out.two, &mut out.memory_one, &mut out.freezer_one] {
            let Some(folder) = place.take().map(|p| p.join(name)) else { continue };
            record(&folder)?;
            if fs::create_dir(&folder).is_ok() {
                *place = Some(folder);
            }
        }
        if let Some(two) = &out.two {
            let _ = fs::write(two.join("cgroup.subtree_control"), "+memory");
            if two.join("cgroup.freeze").exists() {
                out.freezer_one = out.freezer_one.filter(|f| fs::remove_dir(f).is_err());
            }
        }
        Ok(out)
    }

    /// The folders that are ours.
    pub fn folders(&self) -> impl Iterator<Item = &PathBuf> {
        [&self.two, &self.memory_one, &self.freezer_one].into_iter().flatten()
    }

    /// Where the groups of a sandbox will be.
    pub fn planned(&self, name: &str) -> Vec<PathBuf> {
        self.folders().map(|f| f.join(name)).collect()
    }

    /// Makes the groups of a sandbox.
    ///
    /// # Errors
    /// The folder refused and what the system said; nothing is left.
    pub fn make(&self, name: &str, memory: Option<Bytes>) -> Result<Cgroup, (PathBuf, io::Error)> {
        let join = |f: &Option<PathBuf>| f.as_ref().map(|f| f.join(name));
        let group =
            Cgroup { two: join(&self.two), memory_one: join(&self.memory_one), freezer_one: join(&self.freezer_one) };
        for folder in group.folders() {
            if let Err(e) = fs::create_dir(folder) {
                let folder = folder.clone();
                group.remove();
                return Err((folder, e));
            }
        }
        if let Some(most) = memory {
            let text = most.get().to_string();
            let two = group.two.as_ref().map(|f| f.join("memory.max")).filter(|f| f.exists());
            let one = group.memory_one.as_ref().map(|f| f.join("memory.limit_in_bytes"));
            if let Some(file) = two.or(one)
                && let Err(e) = fs::write(&file, &text)
            {
                group.remove();
                return Err((file, e));
            }
            // Nor more by way of swap, where the kernel counts that: without, there is nothing to write to.
            for (folder, file, value) in [
                (&group.two, "memory.swap.max", "0"),
                (&group.memory_one, "memory.memsw.limit_in_bytes", text.as_str()),
            ] {
                let file = folder.as_ref().map(|f| f.join(file)).filter(|f| f.exists());
                let _ = file.map(|f| fs::write(f, value));
            }
        }
        Ok(group)
    }
}

/// The groups of one sandbox.
#[derive(Clone, Debug, Default)]
pub struct Cgroup {
    two: Option<PathBuf>,
    memory_one: Option<PathBuf>,
    freezer_one: Option<PathBuf>,
}

impl Cgroup {
    /// The groups of a name that another program has made, in the hierarchies that are used here.
    pub fn existing(name: &str) -> Self {
        let all = mounts();
        let there = |root: Option<PathBuf>| root.map(|r| r.join(name)).filter(|f| f.is_dir());
        let two = there(all.two);
        let freezes = two.as_ref().is_some_and(|f| f.join("cgroup.freeze").exists());
        Self { two, memory_one: there(all.memory_one), freezer_one: there(all.freezer_one).filter(|_| !freezes) }
    }

    /// Where groups of a name are, in all hierarchies that are mounted: a container's are made in each.
    pub fn everywhere(name: &str) -> Vec<PathBuf> {
        let text = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let of = |line: &str| {
            let mut fields = line.split(' ').skip(1);
            let (path, kind) = (fields.next()?, fields.next()?);
            (kind.starts_with("cgroup") && !path.contains("/.criu.")).then(|| Path::new(path).join(name))
        };
        let mut all: Vec<PathBuf> = text.lines().filter_map(of).collect();
        // Records are undone from their end, and what is frozen does not die.
        all.sort_by_key(|p| p.to_string_lossy().contains("/freezer/"));
        all
    }

    fn folders(&self) -> impl Iterator<Item = &PathBuf> {
        [&self.two, &self.memory_one, &self.freezer_one].into_iter().flatten()
    }

    /// Files by which a process joins, open for writing.
    ///
    /// # Errors
    /// The folder and what the system says.
    pub fn doors(&self) -> Result<Vec<File>, (PathBuf, io::Error)> {
        let open = |f: &PathBuf| {
            let file = f.join("cgroup.procs");
            OpenOptions::new().write(true).open(&file).map_err(|e| (file, e))
        };
        self.folders().map(open).collect()
    }

    /// Stops all processes where they are, or lets them go on; `false` if there is no group that can.
    pub fn freeze(&self, frozen: bool) -> bool {
        let two = self.two.as_ref().map(|f| f.join("cgroup.freeze")).filter(|f| f.exists());
        if let Some(file) = two {
            return fs::write(file, if frozen { "1" } else { "0" }).is_ok();
        }
        let Some(folder) = &self.freezer_one else { return false };
        fs::write(folder.join("freezer.state"), if frozen { "FROZEN" } else { "THAWED" }).is_ok()
    }

    /// Ids of all processes; `None` if no group knows them.
    pub fn processes(&self) -> Option<Vec<i32>> {
        let text = fs::read_to_string(self.folders().next()?.join("cgroup.procs")).ok()?;
        Some(text.split_whitespace().filter_map(|p| p.parse().ok()).collect())
    }

    /// Removes the groups; their processes are gone.
    pub fn remove(&self) {
        self.folders().for_each(|f| remove(f));
    }
}

/// Kills all that is in a group and removes it; it may not be there.
pub fn remove(folder: &Path) {
    for _ in 0..200 {
        match fs::remove_dir(folder) {
            // Dead processes leave a group a moment after they were waited for.
            Err(e) if e.kind() == io::ErrorKind::ResourceBusy => {
                if fs::write(folder.join("cgroup.kill"), "1").is_err() {
                    let _ = fs::write(folder.join("freezer.state"), "THAWED");
                    let text = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
                    for pid in text.split_whitespace().filter_map(|p| p.parse().ok()) {
                        super::process::signal(pid, nix::sys::signal::Signal::SIGKILL);
                    }
                }
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_that_a_checkpoint_makes_for_itself_are_not_the_systems() {
        let yard = "/dev/shm/run/s2.0/images/.criu.cgyard.GMNN1K";
        let system = "cgroup /sys/fs/cgroup/unified cgroup2 rw,nsdelegate 0 0\n\
            cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\ncgroup /sys/fs/cgroup/freezer cgroup rw,freezer 0 0\n";
        let ours = format!("none {yard}/unified cgroup2 rw 0 0\nnone {yard}/memory cgroup rw,memory 0 0\n");
        for text in [format!("{system}{ours}"), format!("{ours}{system}")] {
            let found = mounted(&text);
            let all: Vec<_> = found.folders().map(|f| f.display().to_string()).collect();
            assert_eq!(all, ["unified", "memory", "freezer"].map(|k| format!("/sys/fs/cgroup/{k}")));
        }
        assert_eq!(mounted("tmpfs /tmp tmpfs rw 0 0\n").folders().count(), 0);
    }
}
