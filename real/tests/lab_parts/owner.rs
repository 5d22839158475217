//! The owner's side: a supervisor, and the child that owns the pages.
//!
//! Orders are files `order-N`, answers `answer-N`. `start`, `kill`, `die` (the whole machine) and `end` are for the supervisor, `publish SEED
//! PAGES` and `withdraw ADDRESS` for the child.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use medes_engine::id::NodeId;
use medes_engine::units::PAGE_BYTES;
use medes_real::memory::SharedMemory;
use medes_real::transport::verbs::Verbs;
use medes_real::transport::{Region, Transport};

use super::{node, orders, settings};
use crate::common::Content;

/// The argument that makes the program the child.
pub const CHILD: &str = "owner-of-pages";

/// Orders to a node, from another.
pub struct Orders {
    node: u32,
    next: std::sync::Mutex<u32>,
}

impl Orders {
    pub fn to(node: u32) -> Self {
        Self { node, next: std::sync::Mutex::new(0) }
    }

    /// Gives an order and waits for the answer.
    pub fn give(&self, order: &str) -> String {
        let mut next = self.next.lock().expect("orders");
        let number = *next;
        *next += 1;
        write_whole(&orders(self.node).join(format!("order-{number}")), order);
        let path = orders(self.node).join(format!("answer-{number}"));
        wait_for_file(&path, Duration::from_secs(60))
            .unwrap_or_else(|| panic!("node {} did not answer to '{order}'", self.node))
    }

    /// Gives an order that nobody will answer.
    pub fn give_the_last(&self, order: &str) {
        let number = *self.next.lock().expect("orders");
        write_whole(&orders(self.node).join(format!("order-{number}")), order);
    }

    pub fn publish(&self, content: Content) -> Region {
        parse_region(self.node, &self.give(&format!("publish {} {}", content.seed, content.pages)))
    }

    pub fn withdraw(&self, region: &Region) {
        assert_eq!(self.give(&format!("withdraw {}", region.address)), "true");
    }
}

fn parse_region(node: u32, line: &str) -> Region {
    let numbers: Vec<u64> =
        line.split(' ').map(|n| n.parse().unwrap_or_else(|_| panic!("not a region: {line}"))).collect();
    let [address, key, pages, incarnation] = numbers[..] else { panic!("not a region: {line}") };
    Region { owner: NodeId(node), address, key, pages: pages as u32, incarnation }
}

fn write_whole(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, path)).expect("a file in LAB_DIR");
}

fn wait_for_file(path: &Path, limit: Duration) -> Option<String> {
    let deadline = Instant::now() + limit;
    while Instant::now() < deadline {
        if let Ok(text) = std::fs::read_to_string(path) {
            return Some(text);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    None
}

/// Carries out orders until told to end.
pub fn supervise() -> ExitCode {
    let me = node().expect("a node of the lab");
    let mut child: Option<(Child, BufReader<std::process::ChildStdout>)> = None;
    for number in 0.. {
        let Some(order) = wait_for_file(&orders(me).join(format!("order-{number}")), Duration::from_secs(600)) else {
            return ExitCode::FAILURE;
        };
        let answer = match order.as_str() {
            "start" => {
                let program = std::env::current_exe().expect("this program");
                let mut started = Command::new(program)
                    .arg(CHILD)
                    .stdin(Stdio::piped())
                    .stdout(Stdio::piped())
                    .spawn()
                    .expect("the child");
                let mut out = BufReader::new(started.stdout.take().expect("piped"));
                let line = read_line(&mut out);
                child = Some((started, out));
                line
            }
            "kill" => {
                let (mut running, _) = child.take().expect("a child to kill");
                running.kill().and_then(|()| running.wait()).map(|s| s.to_string()).expect("killed")
            }
            "die" => {
                std::fs::write("/proc/sysrq-trigger", "o").expect("the end of this machine");
                std::thread::sleep(Duration::from_secs(60));
                return ExitCode::FAILURE;
            }
            "end" => {
                if let Some((mut running, _)) = child.take() {
                    drop(running.stdin.take());
                    running.wait().expect("the child's end");
                }
                write_whole(&orders(me).join(format!("answer-{number}")), "ended");
                return ExitCode::SUCCESS;
            }
            other => {
                let (running, out) = child.as_mut().expect("a child");
                writeln!(running.stdin.as_mut().expect("piped"), "{other}").expect("the child listens");
                read_line(out)
            }
        };
        write_whole(&orders(me).join(format!("answer-{number}")), &answer);
    }
    ExitCode::FAILURE
}

fn read_line(from: &mut impl BufRead) -> String {
    let mut line = String::new();
    from.read_line(&mut line).expect("the child speaks");
    line.trim_end().into()
}

/// Owns pages until its input ends.
pub fn child() -> ExitCode {
    let me = node().expect("a node of the lab");
    let (verbs, _events) = Verbs::start(NodeId(me), settings(me)).expect("verbs");
    println!("listening at {}", verbs.address());
    let mut regions = BTreeMap::new();
    for line in std::io::stdin().lines() {
        let line = line.expect("orders");
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["publish", seed, pages] => {
                let content = Content { seed: seed.parse().expect("a seed"), pages: pages.parse().expect("pages") };
                let fill = |bytes: &mut [u8]| {
                    content.fill(bytes);
                    Ok(())
                };
                let memory =
                    SharedMemory::filled("medes-base", content.pages as usize * PAGE_BYTES, fill).expect("memory");
                let region = verbs.publish(Arc::new(memory)).expect("published");
                println!("{} {} {} {}", region.address, region.key, region.pages, region.incarnation);
                regions.insert(region.address, region);
            }
            ["withdraw", address] => {
                let region = regions.remove(&address.parse().expect("an address")).expect("a region");
                println!("{}", verbs.withdraw(&region));
            }
            _ => println!("not understood: {line}"),
        }
    }
    ExitCode::SUCCESS
}
