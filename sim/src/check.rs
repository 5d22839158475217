//! The outside checker: sees what goes between engine and world and keeps its own books.
//!
//! From actions and inputs alone it knows each sandbox's state and what it must weigh, so it proves that memory adds up to the
//! byte on every node, that references to bases balance, that no sandbox makes a move its life does not allow, and that each request
//! ends exactly once.

use std::collections::{BTreeMap, BTreeSet};

use medes_engine::engine::Engine;
use medes_engine::event::{Action, Input};
use medes_engine::id::{FunctionId, NodeId, RequestId, SandboxId};
use medes_engine::record::RequestRecord;
use medes_engine::units::{Bytes, Instant};

use crate::setup::SimError;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Starting,
    Running,
    Idle,
    Checkpointing,
    Reducing,
    Reduced,
    Restoring,
}

#[derive(Debug)]
struct Seen {
    function: FunctionId,
    node: NodeId,
    phase: Phase,
    dump: Bytes,
    image: Option<(Bytes, Vec<SandboxId>)>,
    request: Option<RequestId>,
}

/// Something that looks on while a world runs.
pub trait Watch: Default {
    /// The world tells the engine something.
    ///
    /// # Errors
    /// The world itself broke the protocol.
    fn input(&mut self, at: Instant, input: &Input) -> Result<(), SimError>;

    /// The engine asks for something.
    ///
    /// # Errors
    /// The sandbox's life does not allow it.
    fn action(&mut self, at: Instant, action: &Action) -> Result<(), SimError>;

    /// A request ended.
    ///
    /// # Errors
    /// It was not open.
    fn record(&mut self, at: Instant, record: &RequestRecord) -> Result<(), SimError>;

    /// After a step: memory, node by node, and now and then the engine's own audit.
    ///
    /// # Errors
    /// The books differ.
    fn settle(&mut self, at: Instant, engine: &Engine) -> Result<(), SimError>;

    /// At the end of the run.
    ///
    /// # Errors
    /// A request never ended.
    fn finish(&self, at: Instant) -> Result<(), SimError>;
}

/// Nobody looks on; costs nothing.
#[derive(Debug, Default)]
pub(crate) struct Unwatched;

impl Watch for Unwatched {
    #[inline]
    fn input(&mut self, _: Instant, _: &Input) -> Result<(), SimError> {
        Ok(())
    }

    #[inline]
    fn action(&mut self, _: Instant, _: &Action) -> Result<(), SimError> {
        Ok(())
    }

    #[inline]
    fn record(&mut self, _: Instant, _: &RequestRecord) -> Result<(), SimError> {
        Ok(())
    }

    #[inline]
    fn settle(&mut self, _: Instant, _: &Engine) -> Result<(), SimError> {
        Ok(())
    }

    fn finish(&self, _: Instant) -> Result<(), SimError> {
        Ok(())
    }
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Checker {
    sandboxes: BTreeMap<SandboxId, Seen>,
    open: BTreeSet<RequestId>,
    arrived: u64,
    ended: u64,
    steps: u64,
}

fn fault(at: Instant, what: impl Into<String>) -> SimError {
    SimError::Check { at, what: what.into() }
}

impl Checker {
    /// A warm sandbox loses an image that refers to a base that cannot be had; others are purged by the engine.
    fn images_break(&mut self, bases: &BTreeSet<SandboxId>, of: impl Fn(&Seen) -> bool) {
        for s in self.sandboxes.values_mut() {
            let broken = s.image.as_ref().is_some_and(|i| i.1.iter().any(|b| bases.contains(b)));
            if broken && of(s) && matches!(s.phase, Phase::Idle | Phase::Running) {
                s.image = None;
            }
        }
    }

    fn serving(&self, at: Instant, request: Option<RequestId>) -> Result<(), SimError> {
        match request {
            Some(r) if !self.open.contains(&r) => Err(fault(at, format!("{r} is served but not open"))),
            _ => Ok(()),
        }
    }
}

impl Watch for Checker {
    fn input(&mut self, at: Instant, input: &Input) -> Result<(), SimError> {
        let step = |seen: Option<&mut Seen>, from: &[Phase], to: Phase| match seen {
            // Answers about sandboxes that are gone are allowed.
            None => Ok(()),
            Some(s) if from.contains(&s.phase) => {
                s.phase = to;
                Ok(())
            }
            Some(s) => Err(fault(at, format!("{input:?} of a sandbox that is {:?}", s.phase))),
        };
        match input {
            Input::Arrived { request, .. } => {
                self.arrived += 1;
                if !self.open.insert(*request) {
                    return Err(fault(at, format!("{request} arrived twice")));
                }
                Ok(())
            }
            Input::Started { sandbox } => {
                let seen = self.sandboxes.get_mut(sandbox);
                let to = if seen.as_ref().is_some_and(|s| s.request.is_none()) { Phase::Idle } else { Phase::Running };
                step(seen, &[Phase::Starting], to)
            }
            Input::Restored { sandbox } => step(self.sandboxes.get_mut(sandbox), &[Phase::Restoring], Phase::Running),
            Input::Finished { sandbox, .. } => step(self.sandboxes.get_mut(sandbox), &[Phase::Running], Phase::Idle),
            Input::Checkpointed { sandbox, dump } => {
                if let Some(s) = self.sandboxes.get_mut(sandbox) {
                    s.dump = *dump;
                }
                step(self.sandboxes.get_mut(sandbox), &[Phase::Checkpointing], Phase::Idle)
            }
            Input::Reduced { sandbox, stored, bases } => {
                if let Some(s) = self.sandboxes.get_mut(sandbox)
                    && s.image.is_none()
                {
                    s.image = Some((*stored, bases.clone()));
                }
                step(self.sandboxes.get_mut(sandbox), &[Phase::Reducing], Phase::Reduced)
            }
            Input::Failed { .. } | Input::NodeMemory { .. } | Input::NodeBack { .. } => Ok(()),
            Input::BasesLost { reader, owner } => {
                let of_owner = self.sandboxes.iter().filter(|(_, s)| s.node == *owner).map(|(id, _)| *id).collect();
                self.images_break(&of_owner, |s| s.node == *reader);
                Ok(())
            }
            Input::NodeLost { node } => {
                self.sandboxes.retain(|_, s| s.node != *node);
                let needed = self.sandboxes.values().flat_map(|s| s.image.iter().flat_map(|i| i.1.iter().copied()));
                let gone = needed.filter(|b| !self.sandboxes.contains_key(b)).collect();
                self.images_break(&gone, |_| true);
                Ok(())
            }
        }
    }

    fn action(&mut self, at: Instant, action: &Action) -> Result<(), SimError> {
        let (sandbox, from, to, serving) = match *action {
            Action::Spawn { sandbox, node, function, request } => {
                let seen = Seen { function, node, phase: Phase::Starting, dump: Bytes::ZERO, image: None, request };
                if self.sandboxes.insert(sandbox, seen).is_some() {
                    return Err(fault(at, format!("{sandbox} spawned twice")));
                }
                return self.serving(at, request);
            }
            Action::Purge { sandbox, .. } => {
                return match self.sandboxes.remove(&sandbox) {
                    Some(_) => Ok(()),
                    None => Err(fault(at, format!("{sandbox} purged but not there"))),
                };
            }
            Action::GiveUp { sandbox, .. } => {
                let Some(s) = self.sandboxes.get_mut(&sandbox) else {
                    return Err(fault(at, format!("{sandbox} given up but not there")));
                };
                if s.phase != Phase::Idle || s.dump == Bytes::ZERO {
                    return Err(fault(at, format!("{sandbox} given up but no idle base")));
                }
                s.dump = Bytes::ZERO;
                return Ok(());
            }
            Action::Run { sandbox, request, .. } => (sandbox, Phase::Idle, Phase::Running, Some(request)),
            Action::Restore { sandbox, request, .. } => (sandbox, Phase::Reduced, Phase::Restoring, Some(request)),
            Action::Checkpoint { sandbox, .. } => (sandbox, Phase::Idle, Phase::Checkpointing, None),
            Action::Reduce { sandbox, .. } => (sandbox, Phase::Idle, Phase::Reducing, None),
        };
        let Some(s) = self.sandboxes.get_mut(&sandbox) else {
            return Err(fault(at, format!("{action:?} of a sandbox that is not there")));
        };
        if s.phase != from {
            return Err(fault(at, format!("{action:?} of a sandbox that is {:?}", s.phase)));
        }
        s.phase = to;
        if to == Phase::Checkpointing {
            s.image = None;
        }
        if serving.is_some() {
            s.request = serving;
        }
        self.serving(at, serving)
    }

    fn record(&mut self, at: Instant, r: &RequestRecord) -> Result<(), SimError> {
        self.ended += 1;
        if self.open.remove(&r.request) { Ok(()) } else { Err(fault(at, format!("{} ended twice", r.request))) }
    }

    fn settle(&mut self, at: Instant, engine: &Engine) -> Result<(), SimError> {
        let nodes = engine.config().nodes;
        let mut used = vec![Bytes::ZERO; nodes as usize];
        for s in self.sandboxes.values() {
            let spec = engine.spec(s.function);
            let image = s.image.as_ref().map_or(Bytes::ZERO, |i| i.0);
            let paused = if engine.config().nopause { Bytes::ZERO } else { spec.paused };
            used[s.node.index()] += match s.phase {
                Phase::Reduced => image + paused,
                Phase::Checkpointing => spec.memory + spec.dump,
                _ => spec.memory + s.dump + image,
            };
        }
        for (i, mine) in used.iter().enumerate() {
            let theirs = engine.used(NodeId(i as u32));
            if theirs != *mine {
                return Err(fault(at, format!("node {i} holds {mine}, the engine's account says {theirs}")));
            }
            if *mine > engine.config().memcap {
                return Err(fault(at, format!("node {i} holds {mine}, over its cap of {}", engine.config().memcap)));
            }
        }
        let mut references: BTreeMap<SandboxId, u32> = BTreeMap::new();
        for base in self.sandboxes.values().flat_map(|s| s.image.iter().flat_map(|i| &i.1)) {
            *references.entry(*base).or_default() += 1;
        }
        for (base, mine) in references {
            if engine.references(base) != Some(mine) {
                let theirs = engine.references(base);
                return Err(fault(at, format!("{base} has {mine} references, the engine counts {theirs:?}")));
            }
        }
        self.steps += 1;
        if self.steps.is_multiple_of(64) {
            engine.audit().map_err(|what| fault(at, what))?;
        }
        Ok(())
    }

    fn finish(&self, at: Instant) -> Result<(), SimError> {
        if self.open.is_empty() && self.arrived == self.ended {
            Ok(())
        } else {
            Err(fault(
                at,
                format!("{} requests arrived, {} ended, {} are open", self.arrived, self.ended, self.open.len()),
            ))
        }
    }
}
