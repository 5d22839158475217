//! From a reduced sandbox back to a warm one.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use medes_engine::dedup::Page;
use medes_engine::dedup::file::DedupFile;
use medes_engine::dedup::turns::Turns;
use nix::sys::signal::Signal;
use tracing::warn;

use super::super::criu::{Kind, Options, Purpose};
use super::super::filling::{self, Behind};
use super::super::hold::{Held, Server};
use super::super::rebuild::rebuild;
use super::super::touched::Touched;
use super::super::{Node, Push, lock, process};
use super::{Body, Filling, Pause, Sandbox, failed};
use crate::memory;
use crate::ops::{Give, OpError, Restored, Unpacked};

impl Sandbox {
    /// Restores a process up to where its memory would be filled.
    pub(super) fn hold(&self, node: &Node, deadline: Instant) -> Result<Held, OpError> {
        const WHAT: &str = "holding";
        let criu = node.criu.as_ref().map_err(Clone::clone)?;
        let images = self.images();
        if !images.exists() {
            self.rebuild(node, &images, deadline)?;
        }
        let image = self.open(WHAT)?;
        let server = Server::new(&images)?;
        let options = Options { lazy_pages: Some(true), ..self.to_restore() };
        let purpose = Purpose { what: WHAT, gone: false };
        let pending = criu.about(&node.nursery, &images, Some(&self.group), Kind::Restore, options, purpose)?;
        let held = server.serve(pending, &image, deadline)?;
        self.born(held.root)?;
        Ok(held)
    }

    fn to_restore(&self) -> Options {
        // CRIU binds the socket anew.
        let _ = fs::remove_file(&self.socket);
        Options { rst_sibling: Some(true), leave_stopped: Some(true), ..Options::default() }
    }

    fn rebuild(&self, node: &Node, images: &Path, deadline: Instant) -> Result<Unpacked, OpError> {
        self.with_file(|file| rebuild(&*node.bases, file, images, deadline))
    }

    fn with_file<T>(&self, work: impl FnOnce(&DedupFile<'_>) -> Result<T, OpError>) -> Result<T, OpError> {
        let packed = lock(&self.state).packed.clone().ok_or_else(|| failed("restoring", "it has no image", true))?;
        let file = DedupFile::open(&format!("image of {}", self.id), &packed.file);
        work(&file.map_err(|e| OpError::Damaged(e.to_string()))?)
    }

    /// See [`crate::ops::Sandboxes::restore`].
    pub fn restore(self: &Arc<Self>, node: &Arc<Node>, deadline: Instant) -> Result<Restored, OpError> {
        let began = Instant::now();
        let body = std::mem::replace(&mut lock(&self.state).body, Body::Lost);
        let held = match body {
            Body::Reduced { held } => held,
            warm => {
                lock(&self.state).body = warm;
                return Err(failed("restoring", format!("sandbox {} is not reduced", self.id), false));
            }
        };
        let result = match held {
            Some(held) if process::runs(held.root) => {
                match self.known(node).filter(|_| node.options.push == Push::Behind) {
                    Some(known) => self.push_behind(node, held, &known, deadline),
                    None => self.push(node, held, deadline),
                }
            }
            _ => self.restore_whole(node, deadline),
        };
        match result {
            Ok((root, mut restored)) => {
                lock(&self.state).body = Body::Warm { root, pause: Pause::Stopped };
                restored.took = began.elapsed();
                Ok(restored)
            }
            Err(e) => {
                let _ = fs::remove_dir_all(self.images());
                self.lose();
                Err(e)
            }
        }
    }

    /// Pushes the pages into a held process.
    fn push(&self, node: &Node, held: Held, deadline: Instant) -> Result<(i32, Restored), OpError> {
        let put = |first: u64, pages: &[Page]| {
            held.push(first, pages, false).map_err(|e| failed("filling memory", e.to_string(), true))
        };
        let unpacked = self.with_file(|file| node.bases.unpack(file, &Turns::in_order(file), &put, deadline))?;
        let began = Instant::now();
        let root = held.let_go();
        Ok((root, Restored { unpacked, resume: began.elapsed(), ..Restored::default() }))
    }

    /// Pushes what the function is known to touch, then lets the process go on and pushes its other pages behind it. A page that cannot be had ends the
    /// process: nobody gets past it.
    fn push_behind(
        self: &Arc<Self>,
        node: &Arc<Node>,
        held: Held,
        known: &Touched,
        deadline: Instant,
    ) -> Result<(i32, Restored), OpError> {
        let root = held.root;
        let (behind, mut unpacked) = self.with_file(|file| {
            let put = |first: u64, pages: &[Page]| {
                held.push(first, pages, true).map_err(|e| failed("filling memory", e.to_string(), true))
            };
            let turns = Turns::these(file, &known.pages(|process, at| held.page_at(process, at)));
            let unpacked = node.bases.unpack(file, &turns, &put, deadline)?;
            Ok((Arc::new(Behind::new(file)), unpacked))
        })?;
        let (sandbox, node, told) = (self.clone(), node.clone(), behind.clone());
        let fill = move || {
            let filled = sandbox.with_file(|file| {
                let unpack = |turns: &Turns, put: &Give<'_>| node.bases.unpack(file, turns, put, deadline).map(|_| ());
                filling::fill(&held, file, &told, &unpack)
            });
            if let Err(e) = filled {
                warn!("sandbox {} ends, as its memory cannot be filled: {e}", sandbox.id);
                told.fail(e);
                // Before the descriptors are closed: what is missing would read as zeros.
                sandbox.processes(root).into_iter().for_each(|p| process::signal(p, Signal::SIGKILL));
                process::end(root);
            }
            held.let_go();
            memory::give_back();
        };
        let thread = thread::Builder::new().name("filling".into()).spawn(fill);
        let thread = thread.map_err(|e| failed("restoring", e.to_string(), true))?;
        let mut state = lock(&self.state);
        state.filling = Some(Filling { thread, behind });
        // Most are read later than this; as many as packing found.
        let [own_here, own_there, others_here, others_there] =
            state.packed.as_ref().map_or([0; 4], |p| p.times.base_pages);
        unpacked.pages = [own_here + others_here, own_there + others_there];
        Ok((root, Restored { unpacked, ..Restored::default() }))
    }

    /// Writes the checkpoint back and restores it.
    fn restore_whole(&self, node: &Node, deadline: Instant) -> Result<(i32, Restored), OpError> {
        let criu = node.criu.as_ref().map_err(Clone::clone)?;
        let images = self.images();
        let unpacked = self.rebuild(node, &images, deadline)?;
        let began = Instant::now();
        let purpose = Purpose { what: "restoring", gone: true };
        let response = criu
            .about(&node.nursery, &images, Some(&self.group), Kind::Restore, self.to_restore(), purpose)?
            .finish(deadline)?;
        let root = response.restore.map_or(0, |r| r.pid);
        self.born(root)?;
        let resume = began.elapsed();
        let _ = fs::remove_dir_all(&images);
        Ok((root, Restored { unpacked, resume, ..Restored::default() }))
    }
}
