//! The ten functions and their runner, carried by the program: it must find them on any machine.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::ops::OpError;

macro_rules! carried {
    ($($name:literal),*) => { [$(($name, include_str!(concat!("../../../scripts/functions/", $name, ".py")))),*] };
}

/// Name and source of each function, in the order of the reference's table.
pub const FUNCTIONS: [(&str, &str); 10] = carried!(
    "vanilla",
    "linalg",
    "imagepro",
    "videopro",
    "mapreduce",
    "htmlserve",
    "authenc",
    "featuregen",
    "rnnmodel",
    "modeltrain"
);

const RUNNER: &str = include_str!("../../../scripts/functions/runner.py");

/// Where the runner is written to and which actions there are.
#[derive(Debug)]
pub struct Functions {
    /// The runner's file.
    pub runner: PathBuf,
    actions: BTreeMap<String, String>,
}

impl Functions {
    /// Writes the runner to a folder and reads the actions in `own`; one of the name of a built-in function takes its place.
    ///
    /// # Errors
    /// A file that cannot be written or read.
    pub fn new(folder: &Path, own: &BTreeMap<String, PathBuf>) -> Result<Self, OpError> {
        let runner = folder.join("runner.py");
        fs::write(&runner, RUNNER).map_err(|e| OpError::io(&runner, &e))?;
        let mut actions: BTreeMap<String, String> =
            FUNCTIONS.iter().map(|(name, source)| (name.to_string(), source.to_string())).collect();
        for (name, path) in own {
            let source = fs::read_to_string(path).map_err(|e| OpError::io(path, &e))?;
            actions.insert(name.clone(), source);
        }
        Ok(Self { runner, actions })
    }

    /// What `/init` is sent for a function; `None` if there is no such function.
    pub fn init(&self, function: &str) -> Option<String> {
        let source = self.actions.get(function)?;
        let value = serde_json::json!({ "value": { "name": function, "main": "main", "code": source } });
        Some(value.to_string())
    }
}
