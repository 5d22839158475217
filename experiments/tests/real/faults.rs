//! One test a fault. A request is answered by another start or reported failed within its deadline; nothing hangs, nothing wrong runs.

use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::sync::mpsc;
use std::time::Duration;

use medes_engine::dedup::file::{DedupFile, MAGIC};
use medes_engine::record::{Outcome as Ended, StartKind};
use medes_real::controller::Deadlines;

use crate::bed::{Bed, COUNTER, SILENT, patient};
use crate::left::{kill, possible, stand_still};

const ONE: [u32; 1] = [COUNTER];
const THREE: [u32; 3] = [COUNTER; 3];
const FIVE: [u32; 5] = [COUNTER; 5];

/// The first sandbox becomes a base, those of later bursts are reduced: against its pages, on both nodes.
#[test]
fn dedup_starts_through_two_agents() {
    if !possible("dedup starts through agents") {
        return;
    }
    let bed = Bed::new("dedup", None);
    let steps = vec![
        bed.at_once(&ONE),
        bed.after(&FIVE, |o| o.settled(1, 0)),
        bed.after(&FIVE, |o| o.settled(5, 4)),
        // Reduced again, they are not dumped again.
        bed.after(&FIVE, |o| o.settled(5, 8)),
    ];
    let told = bed.run(false, patient(), steps);
    told.all_answered();
    let (first, second) = (told.count(6, StartKind::Dedup), told.count(11, StartKind::Dedup));
    // Of eight, and of four: one that is not reduced in time on a busy machine is another kind of start.
    assert!(first >= 4 && second >= 1, "{first} {second}: {:?}\n{}", told.records, told.notes);
    let row = |kind: &str| told.outcome.operations.iter().find(|o| o.operation == kind).unwrap();
    assert!(row("dedup").same_remote_pages > 0.0 && row("dedup").same_local_pages > 0.0, "{:?}", row("dedup"));
    assert!(row("dedup-again").count >= 1);
    let starts = told.outcome.starts.iter().find(|s| s.kind == "dedup").unwrap();
    assert!(starts.count as usize == first && starts.patch_ms > 0.0, "{starts:#?}");
    bed.end();
}

#[test]
fn an_agent_is_killed_in_a_restore() {
    if !possible("an agent killed in a restore") {
        return;
    }
    let bed = Bed::new("restore", None);
    let steps = vec![
        bed.at_once(&ONE),
        bed.after(&THREE, |o| o.settled(1, 0)),
        bed.after(&THREE, |o| {
            o.settled(3, 0);
            o.criu("restore", Some("hang"));
        }),
        bed.after(&[], |o| {
            let agent = o.hanging();
            o.criu("restore", None);
            kill(agent);
        }),
    ];
    let told = bed.run(true, Deadlines { dedup: Duration::from_secs(6), ..patient() }, steps);
    told.all_answered();
    assert!(told.notes.contains("was lost"), "{}", told.notes);
    // Two were to be restored; the one that was killed found another start.
    assert!(told.count(4, StartKind::Dedup) <= 1, "{:?}\n{}", told.records, told.notes);
    bed.end();
}

#[test]
fn an_agent_is_killed_while_pages_come_back() {
    if !possible("an agent killed while pages come back") {
        return;
    }
    // No CRIU takes part in a restore to a held process. The agent of the base stands still meanwhile, so whoever restores waits for its pages.
    let bed = Bed::new("pages", None);
    let steps = vec![
        bed.at_once(&ONE),
        bed.after(&FIVE, |o| o.settled(1, 0)),
        bed.after(&FIVE, |o| {
            o.settled(5, 4);
            stand_still(o.asked("dump")[0], true);
        }),
        bed.after(&[], |o| {
            let owner = o.asked("dump")[0];
            kill(o.reading_from(owner));
            stand_still(owner, false);
        }),
    ];
    let told = bed.run(false, patient(), steps);
    told.all_answered();
    assert!(told.notes.contains("was lost"), "{}", told.notes);
    // Of five requests one at least was with the agent that was killed, and found another start.
    assert!(told.count(6, StartKind::Dedup) < 4, "{:?}\n{}", told.records, told.notes);
    bed.end();
}

#[test]
fn criu_fails() {
    if !possible("a CRIU that fails") {
        return;
    }
    let bed = Bed::new("criu", None);
    bed.after(&[], |o| o.criu("dump", Some("fail"))).happens();
    let steps = vec![
        bed.at_once(&ONE),
        // No base, and the sandbox is warm as before. A failed dump is tried twice.
        bed.after(&THREE, |o| {
            o.settled(2, 0);
            o.criu("dump", None);
        }),
        bed.after(&THREE, |o| {
            o.settled(4, 0);
            o.criu("restore", Some("fail"));
        }),
    ];
    let told = bed.run(true, patient(), steps);
    told.all_answered();
    assert!(told.notes.contains("Checkpoint failed") && told.notes.contains("Restore failed"), "{}", told.notes);
    assert!(told.count(1, StartKind::Warm) >= 2, "{:?}", told.records);
    assert_eq!(told.count(4, StartKind::Dedup), 0, "{:?}", told.records);
    bed.end();
}

#[test]
fn the_disk_is_full() {
    if !possible("a full disk") {
        return;
    }
    let bed = Bed::new("full", Some(3));
    let steps = vec![bed.at_once(&THREE), bed.after(&THREE, |o| o.settled(2, 0))];
    let told = bed.run(false, patient(), steps);
    told.all_answered();
    assert!(told.notes.contains("Checkpoint failed"), "{}", told.notes);
    assert_eq!((told.count(3, StartKind::Dedup), told.outcome.operations.len()), (0, 0), "{:?}", told.records);
    bed.end();
}

#[test]
fn the_node_of_a_base_is_lost() {
    if !possible("the loss of a base's node") {
        return;
    }
    let bed = Bed::new("base", None);
    let steps = vec![
        bed.at_once(&ONE),
        bed.after(&FIVE, |o| o.settled(1, 0)),
        bed.after(&FIVE, |o| {
            o.settled(5, 4);
            // The first dump was that of the base.
            kill(o.asked("dump")[0]);
        }),
    ];
    let told = bed.run(false, patient(), steps);
    told.all_answered();
    assert!(told.notes.contains("was lost"), "{}", told.notes);
    assert_eq!(told.count(6, StartKind::Dedup), 0, "{:?}\n{}", told.records, told.notes);
    assert!(told.count(6, StartKind::Cold) >= 1, "{:?}\n{}", told.records, told.notes);
    bed.end();
}

#[test]
fn a_bit_is_flipped_in_a_stored_patch() {
    if !possible("a flipped bit") {
        return;
    }
    let bed = Bed::new("bit", None);
    let (tell, told_of) = mpsc::channel();
    let steps = vec![
        bed.at_once(&ONE),
        bed.after(&FIVE, |o| o.settled(1, 0)),
        bed.after(&FIVE, move |o| {
            o.settled(5, 4);
            let mut agents = o.asked("dump");
            agents.sort_unstable();
            agents.dedup();
            tell.send(agents.into_iter().map(flip).sum::<usize>()).unwrap();
        }),
    ];
    let told = bed.run(false, patient(), steps);
    assert!(told_of.recv().unwrap() >= 4, "every image is damaged");
    told.all_answered();
    // A patch that is none, one that makes another page, or the table of some pages.
    let found = ["damaged", "checksum"].iter().any(|what| told.notes.contains(what));
    assert!(told.notes.contains("Restore failed") && found, "{}", told.notes);
    // A sandbox may answer, rightly, before it comes to the damaged page; most do not.
    assert!(told.count(6, StartKind::Dedup) < 4, "{:?}\n{}", told.records, told.notes);
    bed.end();
}

/// Flips some bits in every packed image in a process's memory, so that one is of a page that its function touches; how many images there were.
fn flip(pid: i32) -> usize {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let mut memory = fs::File::options().read(true).write(true).open(format!("/proc/{pid}/mem")).unwrap();
    let mut flipped = 0;
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let (Some(range), Some("rw-p")) = (words.next(), words.next()) else { continue };
        let ends: Vec<u64> = range.split('-').map(|n| u64::from_str_radix(n, 16).unwrap()).collect();
        let mut bytes = vec![0; (ends[1] - ends[0]) as usize];
        memory.seek(SeekFrom::Start(ends[0])).unwrap();
        if memory.read_exact(&mut bytes).is_err() {
            continue;
        }
        let starts: Vec<usize> =
            bytes.windows(MAGIC.len()).enumerate().filter(|(_, w)| *w == MAGIC).map(|(at, _)| at).collect();
        for start in starts {
            // The header says where the manifest is, which ends the file; what is no file any more does not open.
            let word =
                |at: usize| bytes.get(start + at..start + at + 8).map(|b| u64::from_le_bytes(b.try_into().unwrap()));
            let (Some(manifest), Some(length)) = (word(24), word(32)) else { continue };
            let end = manifest.saturating_add(length).saturating_add(start as u64) as usize;
            let Some(file) = bytes.get(start..end) else { continue };
            if DedupFile::open("found", file).is_err() {
                continue;
            }
            for at in (1..10).map(|tenths| start + manifest as usize * tenths / 10) {
                memory.seek(SeekFrom::Start(ends[0] + at as u64)).unwrap();
                memory.write_all(&[bytes[at] ^ 8]).unwrap();
            }
            flipped += 1;
        }
    }
    flipped
}

#[test]
fn a_function_never_answers() {
    if !possible("a function that never answers") {
        return;
    }
    let bed = Bed::new("silent", None);
    let s = Duration::from_secs;
    let steps = vec![bed.at_once(&[COUNTER, SILENT, COUNTER]), bed.after(&ONE, move |_| std::thread::sleep(s(2)))];
    let told = bed.run(false, Deadlines { run: s(2), request: s(5), ..patient() }, steps);
    let ended: Vec<Ended> = told.records.iter().map(|r| r.outcome).collect();
    assert_eq!(ended, [Ended::Answered, Ended::Failed, Ended::Answered, Ended::Answered], "{}", told.notes);
    assert!(told.notes.contains("not done by its deadline"), "{}", told.notes);
    bed.end();
}
