//! `--host DIR`: simulate on the host that a real run had.
//!
//! The real run's `host.csv` says every half second what a fixed piece of work took of a core, the profile set (`costs.probe_us`) what it took when the
//! profile was measured. Their ratio is the speed at which the simulated cores work.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use medes_engine::profile::ProfileSet;
use medes_engine::record::HostSample;
use medes_sim::HostSpeed;
use xxhash_rust::xxh3::xxh3_64;

/// The columns of a sample; the others say of which cell it is.
const SAMPLE: [&str; 3] = ["at_s", "node", "probe_us"];

/// What the hosts of a real run were like, by cell.
pub struct Hosts {
    path: PathBuf,
    cells: Vec<(BTreeMap<String, String>, Vec<HostSample>)>,
    /// Hash of the file.
    pub digest: u64,
}

impl Hosts {
    /// Reads the `host.csv` of a result folder.
    ///
    /// # Errors
    /// It is not there, a column is missing, or a row has no number where one belongs.
    pub fn load(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join("host.csv");
        let shown = path.display();
        let text = std::fs::read(&path).with_context(|| {
            format!("cannot read {shown}; --host names the result folder of a run with --backend real")
        })?;
        let mut reader = csv::Reader::from_reader(text.as_slice());
        let head: Vec<String> =
            reader.headers().with_context(|| format!("cannot read {shown}"))?.iter().map(str::to_owned).collect();
        let mut places = [0; 3];
        for (place, name) in places.iter_mut().zip(SAMPLE) {
            *place =
                head.iter().position(|h| h == name).with_context(|| format!("{shown}: there is no column {name}"))?;
        }
        let mut cells: BTreeMap<Vec<String>, Vec<HostSample>> = BTreeMap::new();
        for (row, record) in reader.records().enumerate() {
            let line = row + 2;
            let record = record.with_context(|| format!("{shown}: line {line}"))?;
            let number = |i: usize| {
                let text = record.get(places[i]).unwrap_or_default();
                let number = text.parse::<f64>().ok().filter(|n| n.is_finite() && *n >= 0.0);
                number
                    .with_context(|| format!("{shown}: line {line}: {} is \"{text}\", no number from 0 on", SAMPLE[i]))
            };
            let sample = HostSample { at_s: number(0)?, node: number(1)? as u32, probe_us: number(2)? };
            let labels = record.iter().enumerate().filter(|(i, _)| !places.contains(i)).map(|(_, v)| v.to_owned());
            cells.entry(labels.collect()).or_default().push(sample);
        }
        let names: Vec<&String> =
            head.iter().enumerate().filter(|(i, _)| !places.contains(i)).map(|(_, h)| h).collect();
        let named = |values: Vec<String>| names.iter().map(|n| (*n).clone()).zip(values).collect();
        let cells = cells.into_iter().map(|(values, samples)| (named(values), samples)).collect();
        Ok(Self { cells, digest: xxh3_64(&text), path })
    }

    /// The host of the cell with these labels (columns that only one of both has are no difference). A real run with one seed is the host of every
    /// seed: that of a simulated time is a draw and no other run.
    ///
    /// # Errors
    /// The real run had no such cell, or nobody measured how fast the host of the profile was.
    pub fn of(&self, labels: &BTreeMap<String, String>, profiles: &ProfileSet) -> anyhow::Result<HostSpeed> {
        let reference = profiles.costs.probe_us;
        if reference <= 0.0 {
            bail!(
                "profile set `{}` does not say how fast the host was that it was measured on (costs.probe_us): --host needs a profile of \
                 `medes measure`",
                profiles.name
            );
        }
        let seeds: BTreeSet<_> = self.cells.iter().filter_map(|(of, _)| of.get("seed")).collect();
        let same = |of: &BTreeMap<String, String>| {
            let matter = |name: &str| name != "seed" || seeds.len() > 1;
            labels.iter().filter(|(name, _)| matter(name)).all(|(n, wanted)| of.get(n).is_none_or(|v| alike(v, wanted)))
        };
        let Some((_, samples)) = self.cells.iter().find(|(of, _)| same(of)) else {
            let wanted: Vec<String> = labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
            bail!("{}: the real run had no cell {}", self.path.display(), wanted.join(" "));
        };
        Ok(HostSpeed::new(samples, reference))
    }
}

/// Whether two values are the same number, or the same text.
fn alike(a: &str, b: &str) -> bool {
    match (a.parse::<f64>(), b.parse::<f64>()) {
        (Ok(a), Ok(b)) => a == b,
        _ => a == b,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(text: &str) -> anyhow::Result<Hosts> {
        let folder = tempfile::tempdir()?;
        std::fs::write(folder.path().join("host.csv"), text)?;
        Hosts::load(folder.path())
    }

    fn labels(policy: &str, idletime: &str) -> BTreeMap<String, String> {
        let own = [("policy", policy), ("memcap_mb", "400"), ("nodes", "2"), ("seed", "1"), ("idletime", idletime)];
        own.map(|(k, v)| (k.to_owned(), v.to_owned())).into()
    }

    const HEAD: &str = "policy,memcap_mb,nodes,seed,at_s,node,probe_us\n";

    #[test]
    fn each_cell_has_its_own_host() {
        let file = format!("{HEAD}fixed,400.0,2,1,0.5,0,200\nmedes,400.0,2,1,0.5,1,50\nmedes,400.0,2,1,0.0,0,100\n");
        let hosts = hosts(&file).unwrap();
        let mut profiles = crate::profiles::load("reference").unwrap().0;
        let error = hosts.of(&labels("medes", "2"), &profiles).unwrap_err().to_string();
        assert!(error.contains("costs.probe_us"), "{error}");
        profiles.costs.probe_us = 100.0;
        let sample = |at_s, node, probe_us| HostSample { at_s, node, probe_us };
        let expected = HostSpeed::new(&[sample(0.0, 0, 100.0), sample(0.5, 1, 50.0)], 100.0);
        assert_eq!(hosts.of(&labels("medes", "2"), &profiles).unwrap(), expected);
        let of_seed = |seed: &str| {
            let mut labels = labels("medes", "2");
            labels.insert("seed".to_owned(), seed.to_owned());
            labels
        };
        assert_eq!(hosts.of(&of_seed("7"), &profiles).unwrap(), expected);
        let two = self::hosts(&format!("{file}medes,400.0,2,3,0.0,0,100\n")).unwrap();
        assert!(two.of(&of_seed("7"), &profiles).unwrap_err().to_string().contains("no cell"));
        assert!(two.of(&of_seed("3"), &profiles).is_ok());
        let error = hosts.of(&labels("adaptive", "2"), &profiles).unwrap_err().to_string();
        assert!(error.contains("no cell") && error.contains("policy=adaptive"), "{error}");
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let error = |text: &str| format!("{:#}", hosts(text).err().unwrap());
        assert!(error("policy,at_s,node\n").contains("no column probe_us"));
        assert!(error(&format!("{HEAD}fixed,400,2,1,0.5,0,fast\n")).contains("line 2: probe_us is \"fast\""));
        assert!(error(&format!("{HEAD}fixed,400,2,1,-1,0,9\n")).contains("line 2: at_s is \"-1\""));
        assert!(error(&format!("{HEAD}fixed,400\n")).contains("line 2"));
        let none = Hosts::load(Path::new("/nowhere")).err().unwrap();
        assert!(format!("{none:#}").contains("--backend real"));
    }
}
