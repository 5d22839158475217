//! `medes measure` of functions: what it refuses.

use crate::support::Place;

#[test]
fn what_cannot_be_measured_is_refused_with_the_mend() {
    let place = Place::new();
    let refused = place.medes("measure vanilla").env("MEDES_CRIU", "/nonexistent/criu").assert().failure();
    let said = String::from_utf8_lossy(&refused.get_output().stderr).into_owned();
    assert!(said.contains("scripts/setup-criu") && refused.get_output().status.code() == Some(1), "{said}");
    for (line, said) in [
        ("measure jpeg", "shipped are vanilla"),
        ("measure --function mine", "NAME=FILE"),
        ("measure vanilla --rounds 0", "--rounds"),
        ("measure vanilla --profile nothing", "no profile set"),
    ] {
        assert!(place.ends(2, line).err.contains(said), "{line}");
    }
}
