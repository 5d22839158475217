//! What the function touches, seen in its first run.

use std::io;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tracing::warn;

use super::super::touched::Touched;
use super::super::watch::{NotWatched, Watch};
use super::super::{Node, Push, http, lock, process};
use super::{Sandbox, failed};
use crate::ops::OpError;

/// For so long at least memory may be moved back; a hundred megabytes take 0.05 s.
const MOVING: Duration = Duration::from_secs(5);

impl Sandbox {
    /// Where it stands what this sandbox touches.
    pub(super) fn own_record(&self) -> String {
        self.id.to_string()
    }

    /// Where it stands what others touch as well.
    fn record(&self, node: &Node) -> String {
        if node.options.randomize { self.own_record() } else { self.function.clone() }
    }

    /// What is known to be touched: of its function, and what it has missed itself.
    pub(super) fn known(&self, node: &Node) -> Option<Touched> {
        let shared = node.touched.of(&self.record(node))?;
        Some(node.touched.of(&self.own_record()).map_or_else(|| Touched::clone(&shared), |own| shared.and(&own)))
    }

    /// A start has missed pages of an image of so many.
    pub(super) fn missed(&self, node: &Node, seen: &Touched, pages: u64) {
        let (own, shared) = (self.own_record(), self.record(node));
        if own != shared {
            node.touched.add(&own, seen, pages);
        }
        node.touched.add(&shared, seen, pages);
    }

    /// Begins to watch what is touched, if that is worth knowing and not known.
    ///
    /// # Errors
    /// The process cannot go on.
    pub(super) fn watch(&self, node: &Node, root: i32, deadline: Instant) -> Result<(), OpError> {
        let record = self.record(node);
        let useless = node.options.nopause || node.options.push == Push::First || node.criu.is_err();
        // What is touched is there twice for a while.
        let room = node.options.sandbox_memory.is_none_or(|cap| process::anonymous(root).scale(2.0) <= cap);
        if useless || !room || !node.touched.begin(&record) {
            return Ok(());
        }
        match Watch::begin(root, &|path, value| self.tell(path, &value, deadline)) {
            Ok(watch) => {
                lock(&self.state).watch = Some(watch);
                Ok(())
            }
            Err(NotWatched::Untouched(e)) => {
                warn!(
                    "the first dedup starts of {} will be slow, as its first run cannot be watched: {e}",
                    self.function
                );
                node.touched.add(&record, &Touched::default(), 0);
                Ok(())
            }
            Err(NotWatched::Broken(e)) => {
                node.touched.give_up(&record);
                Err(failed("watching", e.to_string(), true))
            }
        }
    }

    /// Ends watching, of a process that is awake. `false`: it cannot go on, and has ended.
    pub(super) fn watched(&self, node: &Node, deadline: Instant) -> bool {
        let Some(watch) = lock(&self.state).watch.take() else { return true };
        // The answer is there, however late; half a sandbox is of no use.
        let deadline = deadline.max(Instant::now() + MOVING);
        match watch.end(&|path, value| self.tell(path, &value, deadline)) {
            Ok((touched, pages)) => {
                node.touched.add(&self.record(node), &touched, pages);
                true
            }
            Err(e) => {
                warn!("sandbox {} ends, as its memory cannot be moved back: {e}", self.id);
                node.touched.give_up(&self.record(node));
                self.lose();
                false
            }
        }
    }

    /// Nothing will be seen any more.
    pub(super) fn unwatched(&self, node: &Node) {
        if lock(&self.state).watch.take().is_some() {
            node.touched.give_up(&self.record(node));
        }
    }

    /// One more thing that its runner can do.
    fn tell(&self, path: &str, value: &Value, deadline: Instant) -> io::Result<Value> {
        let body = json!({ "value": value }).to_string();
        let answer = http::send(&self.socket, path, &body, deadline).and_then(|sent| sent.answer(deadline));
        let (status, body) = answer.map_err(io::Error::other)?;
        if status != 200 {
            return Err(io::Error::other(format!("{path} answered {status}: {body}")));
        }
        serde_json::from_str(&body).map_err(io::Error::other)
    }
}
