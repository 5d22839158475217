use std::path::Path;

use clap::Parser;

use super::*;

#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    cmd: DedupCmd,
}

fn medes(line: &str) -> anyhow::Result<()> {
    let words = std::iter::once("dedup").chain(line.split_whitespace());
    run(&Cli::try_parse_from(words)?.cmd, &Output { json: false, quiet: true })
}

/// Pages of noise, the last bytes of each marked, as a plain file.
fn dump(path: &Path, pages: u64, mark: u8) {
    let mut bytes = Vec::new();
    for n in 0..pages {
        let mut x = n * 7919 + 1;
        bytes.extend((0..4096).map(|i| {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            if i > 4000 { mark } else { (x >> 58) as u8 }
        }));
    }
    std::fs::write(path, bytes).expect("a temporary file");
}

#[test]
fn names_come_from_the_path() {
    let name = |text: &str| text.parse::<DumpArg>().map(|d| (d.name, d.path.display().to_string()));
    assert_eq!(name("x/linalg/0"), Ok(("linalg".into(), "x/linalg/0".into())));
    assert_eq!(name("x/linalg"), Ok(("linalg".into(), "x/linalg".into())));
    assert_eq!(name("f=x/0"), Ok(("f".into(), "x/0".into())));
    assert_eq!(name("x/a=b/0"), Ok(("a=b".into(), "x/a=b/0".into())));
}

#[test]
fn every_command_works_and_says_what_is_wrong() {
    let dir = std::env::temp_dir().join(format!("medes-dedup-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a temporary folder");
    let at = |name: &str| dir.join(name).display().to_string();
    for (name, mark) in [("a", 1), ("b", 2), ("c", 3)] {
        dump(&dir.join(name), 40, mark);
    }
    let (a, b, c) = (at("a"), at("b"), at("c"));
    medes(&format!("pack {b} --base {a} -o {}", at("b.dedup"))).unwrap();
    medes(&format!("verify {} --base {c} {a} --against {b}", at("b.dedup"))).unwrap();
    medes(&format!("unpack {} --base {a} -o {}", at("b.dedup"), at("back"))).unwrap();
    assert!(std::fs::read(at("back")).unwrap() == std::fs::read(&b).unwrap());
    for budget in ["-1", "NaN", "soon"] {
        let error =
            medes(&format!("pack {b} --base {a} -o {} --budget-us={budget}", at("no"))).unwrap_err().to_string();
        assert!(error.contains("0 or more"), "{error}");
    }
    let error = medes(&format!("verify {} --base {c}", at("b.dedup"))).unwrap_err().to_string();
    assert!(error.contains("needs the base"), "{error}");
    let error = medes(&format!("verify {} --base {a} --against {c}", at("b.dedup"))).unwrap_err().to_string();
    assert!(error.contains("page 0"), "{error}");
    let error = medes(&format!("verify {b} --base {a}")).unwrap_err().to_string();
    assert!(error.contains("not a dedup file"), "{error}");
    medes(&format!("sweep {b} --base {a} --chunks 1,5 --codecs auto,byte-diff --fingerprints value-sampled,non-null"))
        .unwrap();
    medes(&format!("sweep {b} --base {a} --chunks 5 --paper")).unwrap();
    medes(&format!("sweep {b} {c} --base {a} --chunks 5,40 --codecs auto,zstd --figures {}", at("sweep"))).unwrap();
    for figure in ["pages-matched", "bytes-saved", "patch-size", "pack-time", "unpack-time"] {
        let csv = std::fs::read_to_string(dir.join(format!("sweep/sweep-{figure}.csv"))).expect("the figure's numbers");
        assert!(csv.contains("c, auto"), "{csv}");
    }
    assert!(medes(&format!("sweep {b} --base {a} --chunks 65")).unwrap_err().to_string().contains("1 to 64"));
    medes(&format!("analyze f={a} f={b} g={c} --figures {}", at("figures"))).unwrap();
    assert!(dir.join("figures/redundancy-heat-map.svg").exists());
    medes(&format!("analyze --relocate f={a}")).unwrap();
    medes(&format!("model f={a} f={b} f={c} --check")).unwrap();
    medes(&format!("model f={a} f={b} -o {}", at("m.toml"))).unwrap();
    medes(&format!("model f={a} f={b} -o {} --times {}", at("n.toml"), at("m.toml"))).unwrap();
    assert!(medes(&format!("model f={a}")).unwrap_err().to_string().contains("two instances"));
    assert!(format!("{:#}", medes(&format!("analyze {}", at("none"))).unwrap_err()).contains("none"));
    std::fs::remove_dir_all(&dir).unwrap();
}
