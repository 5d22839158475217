//! Rules of the house, over every file that is in the repository. A count in here may be lowered, never raised.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A source file longer than this says too much for one file.
const LONGEST: usize = 550;
/// Files that are longer, with the lines they may have.
const LONGER: &[(&str, usize)] = &[("engine/src/config.rs", 730)];
/// Places outside tests where a program would end itself: each one argues beside it why it cannot be reached.
const ENDS: &[(&str, usize)] = &[("engine/src/dedup/index.rs", 1), ("engine/src/policy/mod.rs", 1)];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Files under version control with their text; those that are not text are left out.
fn files() -> BTreeMap<String, String> {
    let listed = Command::new("git").args(["ls-files", "-z"]).current_dir(root()).output();
    let names = match &listed {
        Ok(out) if out.status.success() => String::from_utf8_lossy(&out.stdout).into_owned(),
        _ => {
            println!("skipped: no git repository here to list the project's files");
            return BTreeMap::new();
        }
    };
    let names = names.split('\0').filter(|n| !n.is_empty());
    names.filter_map(|n| Some((n.to_owned(), std::fs::read_to_string(root().join(n)).ok()?))).collect()
}

fn sources() -> impl Iterator<Item = (String, String)> {
    files().into_iter().filter(|(name, _)| name.ends_with(".rs"))
}

/// The part of a source file before its tests.
fn before_tests(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod ").next().unwrap_or(text)
}

fn is_test(name: &str) -> bool {
    let inside = ["tests/", "benches/", "examples/", "fuzz/"];
    inside.iter().any(|d| name.starts_with(d) || name.contains(&format!("/{d}"))) || name.ends_with("tests.rs")
}

#[test]
fn nothing_is_left_to_do() {
    let words = [["to", "do!"], ["unimple", "mented!"], ["d", "bg!"], ["FIX", "ME"], ["XX", "X:"]].map(|w| w.concat());
    for (name, text) in sources() {
        for word in &words {
            assert!(!text.contains(word.as_str()), "{name} has {word}");
        }
    }
}

/// A path or host of the machine on which something was written means nothing on any other.
#[test]
fn no_file_names_a_machine() {
    let words = [["/wo", "rk/"], ["/ro", "ot/"], ["/ho", "me/"], ["/tmp/", "bash"], ["index.crates", ".io-"]]
        .map(|w| w.concat());
    for (name, text) in files() {
        for word in &words {
            let at = text.lines().position(|l| l.contains(word.as_str()));
            assert_eq!(at, None, "{name} has {word}, on the line after this many");
        }
    }
}

/// What is written stands by itself: numbers of issues are of a tracker that the reader may not have.
#[test]
fn no_file_refers_to_a_tracker() {
    for (name, text) in files() {
        let text = text.to_lowercase();
        for (at, _) in text.match_indices("issue") {
            let rest = text[at + 5..].trim_start_matches(['s', ' ', '#', '/']);
            let number = rest.len() < text[at + 5..].len() && rest.starts_with(|c: char| c.is_ascii_digit());
            assert!(!number, "{name} names an issue by number");
        }
    }
}

#[test]
fn files_stay_short() {
    for (name, text) in sources() {
        let lines = text.lines().count();
        let most = LONGER.iter().find(|l| l.0 == name).map_or(LONGEST, |l| l.1);
        assert!(lines <= most, "{name} has {lines} lines, more than {most}: divide it");
    }
}

#[test]
fn every_source_file_says_what_it_is() {
    for (name, text) in sources().filter(|(name, _)| !name.ends_with("tests.rs")) {
        assert!(text.starts_with("//!") || text.starts_with("#!["), "{name} does not begin with a `//!` comment");
    }
}

/// Nothing panics on input: what can go wrong is an error with a message.
#[test]
fn nothing_ends_the_program_but_main() {
    let words = [".unwrap()", ".expect(", "panic!(", "unreachable!(", "assert!(", "assert_eq!(", "process::abort"];
    for (name, text) in sources().filter(|(name, _)| !is_test(name)) {
        let text: Vec<&str> = before_tests(&text).lines().filter(|l| !l.trim_start().starts_with("//")).collect();
        let lines = text.iter().filter(|l| !l.contains("debug_assert") && !l.starts_with("const _"));
        let count = lines.map(|l| words.iter().filter(|w| l.contains(*w)).count()).sum::<usize>();
        let most = ENDS.iter().find(|e| e.0 == name).map_or(0, |e| e.1);
        assert!(count <= most, "{name} has {count} places that end the program, more than {most}: return an error");
    }
}

/// Who may know whom: the engine nobody, the worlds the engine only.
#[test]
fn crates_depend_as_the_architecture_says() {
    let may: &[(&str, &[&str])] = &[
        ("engine", &[]),
        ("sim", &["medes-engine"]),
        ("traces", &["medes-engine"]),
        ("plots", &["medes-engine"]),
        ("real", &["medes-engine"]),
    ];
    for (folder, allowed) in may {
        let Ok(text) = std::fs::read_to_string(root().join(folder).join("Cargo.toml")) else { continue };
        let manifest: toml::Table = text.parse().unwrap();
        let dependencies = manifest.get("dependencies").and_then(toml::Value::as_table).cloned().unwrap_or_default();
        let ours: Vec<&String> = dependencies.keys().filter(|k| k.starts_with("medes")).collect();
        assert!(
            ours.iter().all(|d| allowed.contains(&d.as_str())),
            "{folder} depends on {ours:?}, allowed is {allowed:?}"
        );
    }
}

/// The engine decides and the simulated world computes: neither may look at a clock or at entropy.
#[test]
fn clocks_and_entropy_are_forbidden_where_results_are_made() {
    for folder in ["engine", "sim"] {
        let text = std::fs::read_to_string(root().join(folder).join("clippy.toml")).unwrap();
        for word in ["Instant::now", "SystemTime", "HashMap"] {
            assert!(text.contains(word), "{folder}/clippy.toml does not forbid {word}");
        }
    }
}
