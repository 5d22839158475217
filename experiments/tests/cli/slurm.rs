//! `run --on slurm` where there is no Slurm; scripts/check-slurm tries it against a real one.

use crate::support::{Place, Said};

#[test]
fn without_slurm_it_says_what_is_missing_and_leaves_no_job_on_record() {
    let place = Place::new();
    let said = place.medes("run tiny.toml --out out --on slurm").env("PATH", place.path("empty")).output();
    let said = Said::of(said.unwrap());
    assert_eq!((said.status, said.out.as_str()), (Some(2), ""));
    assert!(said.err.contains("cannot run `sbatch`") && said.err.contains("slurm-client"), "{}", said.err);
    let left: Vec<_> = std::fs::read_dir(place.path("out/slurm")).unwrap().flatten().map(|e| e.file_name()).collect();
    assert_eq!(left, ["lock"]);
}

#[test]
fn a_finished_sweep_needs_no_slurm() {
    let place = Place::new();
    place.works("run tiny.toml --out out --quiet");
    let first = place.read("out/summary.csv");
    let said = place.medes("run tiny.toml --out out --on slurm").env("PATH", place.path("empty")).output();
    let said = Said::of(said.unwrap());
    assert_eq!(said.status, Some(0), "{}", said.err);
    assert!(said.err.contains("8 of 8 cells"), "{}", said.err);
    assert_eq!(first, place.read("out/summary.csv"));
}

#[test]
fn options_of_a_cluster_are_for_a_cluster() {
    let place = Place::new();
    for options in ["--tasks 4", "--partition short", "--on here --tasks 4"] {
        assert!(place.ends(2, &format!("run tiny.toml --out out {options}")).err.contains("--on slurm"), "{options}");
    }
    assert!(place.ends(2, "run tiny.toml --out out --on slurm --tasks 0").err.contains("--tasks"));
    assert!(place.ends(2, "run tiny.toml --out out --on kubernetes").err.contains("slurm"));
    place.file("plan.json", "{\"name\": \"x\", \"job\": null, \"tasks\": [[\"0\"]]}");
    let said = place.ends(2, "run tiny.toml --out out --slurm-task plan.json");
    assert!(said.err.contains("SLURM_ARRAY_TASK_ID"), "{}", said.err);
}

/// A task whose inputs are not those of the submitting side must not pass for one that is done.
#[test]
fn a_task_that_does_not_know_its_cells_says_so() {
    let place = Place::new();
    place.file("plan.json", "{\"name\": \"x\", \"job\": null, \"tasks\": [[\"0123456789abcdef\"]]}");
    let command = "run tiny.toml --out out --slurm-task plan.json";
    let said = Said::of(place.medes(command).env("SLURM_ARRAY_TASK_ID", "0").output().unwrap());
    assert_eq!(said.status, Some(2));
    assert!(said.err.contains("differ between the machine"), "{}", said.err);
    assert!(place.cells("out").is_empty());
}
