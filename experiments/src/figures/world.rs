//! Where the runs behind figures take place: in the simulator, or on sandboxes of machines (`--backend real`).
//!
//! What two nodes can show in minutes is another experiment than twenty machines for an hour: a figure's `real` in its file says how
//! it is shortened, and the origin under the figure says so as well. Everything after the rows is the same in both worlds.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use medes_plots::CellData;

use super::spec::Spec;
use crate::doctor;
use crate::output::Output;
use crate::real::{self, Machines};

/// The worlds.
pub enum World {
    /// Virtual time and modelled memory.
    Simulated,
    /// Sandboxes on machines.
    Real(Box<Sites>),
}

/// The machines of all figures. Agents of this machine are started when the first figure has cells to run.
pub struct Sites {
    cluster: Option<PathBuf>,
    machines: RefCell<Option<Machines>>,
}

impl World {
    /// The real world: on the agents of a cluster file, or on agents of this machine.
    ///
    /// # Errors
    /// What this machine lacks to run sandboxes, each with the way to get it; a cluster file that cannot be read.
    pub fn real(cluster: Option<&Path>) -> anyhow::Result<Self> {
        let machines = match cluster {
            Some(path) => Some(Machines::of_cluster(path, PathBuf::new())?),
            None => {
                let missing = doctor::missing_for_sandboxes();
                anyhow::ensure!(
                    missing.is_empty(),
                    "real sandboxes cannot run here:\n  {}\nwithout --backend real the figures are simulated; --cluster FILE runs them on other machines",
                    missing.join("\n  ")
                );
                None
            }
        };
        let sites = Sites { cluster: cluster.map(Path::to_owned), machines: RefCell::new(machines) };
        Ok(Self::Real(Box::new(sites)))
    }

    /// Overrides of a figure's experiment in this world, below those of the command line.
    pub fn overrides(&self, spec: &Spec, small: bool) -> Vec<String> {
        match self {
            Self::Simulated if small => spec.figure.small.clone(),
            Self::Simulated => Vec::new(),
            Self::Real(sites) => {
                let mut set = spec.figure.real.clone();
                // On a cluster all its agents take part; memory is a cap a node, so it grows with them.
                if sites.cluster.is_some() {
                    set.extend(sites.machines.borrow().as_ref().map(|m| format!("nodes={}", m.nodes())));
                }
                set
            }
        }
    }

    /// Whether runs are real.
    pub fn is_real(&self) -> bool {
        matches!(self, Self::Real(_))
    }

    /// In words, for origins.
    pub fn words(&self) -> String {
        let Self::Real(sites) = self else { return "simulated".to_owned() };
        match &sites.cluster {
            Some(file) => format!("real sandboxes on the agents of {}", file.display()),
            None => "real sandboxes, agents on one machine".to_owned(),
        }
    }
}

impl Sites {
    /// The machines, with at least so many agents.
    ///
    /// # Errors
    /// Agents that cannot be started.
    pub fn with<T>(
        &self,
        nodes: u32,
        out: &Output,
        then: impl FnOnce(&Machines) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let enough = self.machines.borrow().as_ref().is_some_and(|m| m.nodes() >= nodes);
        if !enough && self.cluster.is_none() {
            // Those that are too few end before others take their place.
            drop(self.machines.take());
            out.say(format!("starting {nodes} agents on this machine"));
            *self.machines.borrow_mut() = Some(Machines::local(nodes, PathBuf::new())?);
        }
        let machines = self.machines.borrow();
        match machines.as_ref() {
            Some(machines) => then(machines),
            None => anyhow::bail!("there are no agents to run on"),
        }
    }
}

/// The figures that a world has, of those chosen.
///
/// # Errors
/// A figure asked for by name that real sandboxes do not have.
pub fn possible(chosen: Vec<Spec>, by_name: bool, out: &Output) -> anyhow::Result<Vec<Spec>> {
    let numbers = |specs: &[Spec]| specs.iter().map(|s| s.figure.number.to_string()).collect::<Vec<_>>().join(", ");
    let (can, not): (Vec<Spec>, Vec<Spec>) =
        chosen.into_iter().partition(|s| !s.figure.real.is_empty() || s.figure.kind.of_sandboxes());
    anyhow::ensure!(
        not.is_empty() || !by_name,
        "figures {} need more machines or hours than one has: they are simulated only; `medes figures --list` says which have a real form",
        numbers(&not)
    );
    if !not.is_empty() {
        out.say(format!("figures {} are left out: they are simulated only", numbers(&not)));
    }
    Ok(can)
}

/// Says how long the cells take in real time.
pub fn announce(cells: usize, length_s: f64, out: &Output) {
    out.say(format!("{}, less those that are there already", real::takes(cells, length_s)));
}

/// What happened in real runs that a reader must know, each once, with the policy it happened under.
pub fn notes(finished: &crate::run::Finished, data: &[CellData]) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    for (cell, row) in finished.cells.iter().zip(data) {
        for note in &cell.notes {
            let note = format!("{}: {note}", row.summary.policy);
            if !out.contains(&note) {
                out.push(note);
            }
        }
    }
    out
}
