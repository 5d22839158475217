//! Profile sets: those shipped in `config/`, built into the binary, and files of the user's.

use std::path::Path;

use anyhow::{Context, bail};
use medes_engine::profile::ProfileSet;

use crate::experiment::Experiment;
use crate::real::table::Push;

/// The sets that are built in, by name.
const SHIPPED: &[(&str, &str)] = &[
    ("reference", include_str!("../../config/reference.toml")),
    ("measured", include_str!("../../config/measured.toml")),
    ("measured-aslr", include_str!("../../config/measured-aslr.toml")),
];

/// A profile set by the name of a shipped one or the path of a TOML file, with its text.
pub fn load(name: &str) -> anyhow::Result<(ProfileSet, String)> {
    let text = match SHIPPED.iter().find(|(n, _)| *n == name) {
        Some((_, text)) => (*text).to_owned(),
        None if name.ends_with(".toml") => {
            std::fs::read_to_string(Path::new(name)).with_context(|| format!("cannot read the profile set `{name}`"))?
        }
        None => bail!(
            "no profile set is called `{name}`; shipped are {}, or give the path of a .toml file",
            SHIPPED.iter().map(|(n, _)| *n).collect::<Vec<_>>().join(", ")
        ),
    };
    let set: ProfileSet = toml::from_str(&text).with_context(|| format!("profile set `{name}`"))?;
    set.check()?;
    Ok((set, text))
}

/// The profile set of an experiment, with its text and whatever else determines rows.
pub fn of(experiment: &Experiment) -> anyhow::Result<(ProfileSet, String)> {
    let (mut set, mut text) = load(&experiment.profile)?;
    if experiment.real.push == Push::First {
        set.function.iter_mut().for_each(|f| f.behind = None);
        text.push_str("pages pushed first");
    }
    Ok((set, text))
}

/// Names and origins of the shipped sets.
pub fn shipped() -> Vec<(&'static str, String)> {
    SHIPPED.iter().map(|(n, t)| (*n, toml::from_str::<ProfileSet>(t).map(|s| s.origin).unwrap_or_default())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shipped_set_passes_its_check_and_says_its_origin() {
        for (name, _) in SHIPPED {
            let (set, _) = load(name).unwrap();
            assert_eq!(set.name, *name);
            assert_eq!(set.function.len(), 10);
            assert!(!set.origin.is_empty());
            for codec in ["xdelta3", "lz4", "zstd", "auto"] {
                assert!(set.codec.contains_key(codec));
            }
        }
    }

    /// The figures that the sets are fitted to, through the model: the reference's advantages, and the
    /// measured shares at 1, 5 and 40 chunks.
    #[test]
    fn the_model_gives_back_what_the_sets_were_fitted_to() {
        use medes_engine::profile::Query;
        use medes_engine::units::Bytes;
        let saved = |set: &ProfileSet, name: &str, k: u32| {
            let f = set.function.iter().find(|f| f.name == name).unwrap();
            let memory = Bytes::from_mb(f.memory_mb);
            let codec = &set.codec["xdelta3"];
            let query = Query {
                memory,
                chunksperpage: k,
                patchthreshold: 4096,
                codec,
                own_bases: 1,
                runtime_base: true,
                library_share: 1.0,
            };
            1.0 - f.layout(&query).stored / memory.get() as f64
        };
        let (reference, _) = load("reference").unwrap();
        for f in &reference.function {
            assert!((saved(&reference, &f.name, 5) - f.advantage).abs() < 0.01, "{}", f.name);
        }
        let (measured, _) = load("measured").unwrap();
        for (name, k, share) in [
            ("vanilla", 1, 0.75),
            ("vanilla", 5, 0.815),
            ("featuregen", 1, 0.26),
            ("featuregen", 5, 0.38),
            ("featuregen", 40, 0.66),
            ("rnnmodel", 40, 0.89),
        ] {
            assert!((saved(&measured, name, k) - share).abs() < 0.03, "{name} {k}: {}", saved(&measured, name, k));
        }
    }

    #[test]
    fn a_wrong_name_or_file_says_what_there_is() {
        assert!(load("nope").unwrap_err().to_string().contains("reference, measured"));
        assert!(format!("{:#}", load("/nonexistent/p.toml").unwrap_err()).contains("/nonexistent/p.toml"));
    }
}
