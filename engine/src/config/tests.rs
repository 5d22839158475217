//! The registry holds together, and says what is wrong with a value.

use super::*;

#[test]
fn every_default_is_accepted_by_its_own_entry() {
    for p in PARAMETERS {
        assert!(p.parse(p.default).is_ok(), "{}", p.name);
        assert!(p.about.ends_with('.') && !p.about.is_empty(), "{}", p.name);
        assert_eq!(PARAMETERS.iter().filter(|q| q.name == p.name).count(), 1, "{}", p.name);
    }
    assert_eq!(Config::default().check(), Ok(()));
    assert_eq!(Config::default().memcap, Bytes::from_mb(2500.0));
}

#[test]
fn a_bad_value_or_name_is_refused_with_the_mend() {
    let mut c = Config::default();
    let said = |c: &mut Config, k: &str, v: &str| c.set(k, v).unwrap_err().to_string();
    assert_eq!(
        said(&mut c, "chunksperpage", "0"),
        "parameter `chunksperpage`: `0` is not a whole number from 1 to 64 (chunks)"
    );
    assert!(said(&mut c, "chunksperpage", "2.5").contains("whole number"));
    assert!(said(&mut c, "memcap", "NaN").contains("MB"));
    assert!(said(&mut c, "memcap", "-5").contains("a number from 1"));
    assert!(said(&mut c, "policy", "mdes").contains("one of"));
    assert!(said(&mut c, "chunkperpage", "5").contains("did you mean `chunksperpage`"));
    assert!(said(&mut c, "basechoice", "1 2").contains("three numbers"));
    assert!(c.set("basechoice", "0 1 2.5").is_ok());
    c.set("hist_head", "99.5").unwrap();
    assert!(c.check().unwrap_err().to_string().contains("hist_tail"));
    let mut c = Config::default();
    c.set("adaptive", "1").unwrap();
    assert!(c.check().unwrap_err().to_string().contains("contradicts policy medes"));
    c.set("policy", "fixed").unwrap();
    assert_eq!((c.check(), c.policy), (Ok(()), "adaptive"));
}

#[test]
fn a_pool_is_divided_among_the_nodes_and_a_share_spread_over_the_functions() {
    let mut c = Config::default();
    c.set("pool", "30").unwrap();
    c.set("nodes", "20").unwrap();
    assert_eq!((c.check(), c.memcap), (Ok(()), Bytes::from_mb(1500.0)));
    let sharing = |share: &str, of: u32| {
        let mut c = Config::default();
        c.set("dedup_share", share).unwrap();
        (0..of).filter(|f| c.shares_bases(FunctionId(*f))).count()
    };
    assert_eq!((sharing("0", 10), sharing("0.5", 10), sharing("1", 10)), (0, 5, 10));
    assert!((sharing("0.25", 1000) as i64 - 250).abs() <= 2);
}
