//! What deduplication gives: which bases a sandbox is patched against, what it weighs, what it takes.
//!
//! Sizes follow from the profile's classes of pages (see `medes_engine::profile`), with the parameters of
//! the run and the bases that are there at that moment. Of a function's own bases the one with the best score `w_refcount x
//! references + w_local x [same node]` serves (REFERENCE, base page choice); of equal ones the oldest. Pages that any base of
//! the runtime can give are read from the same one, or without an own base from the oldest base of the runtime in scope.
//!
//! Left out: choice page by page, so a sandbox reads from at most one base; bases that hold only some of the libraries.

use std::collections::{BTreeMap, BTreeSet};

use medes_engine::config::{Config, DedupScope};
use medes_engine::engine::Engine;
use medes_engine::event::Method;
use medes_engine::id::{FunctionId, NodeId, SandboxId};
use medes_engine::profile::{Codec, CodecKind, Layout, Query};
use medes_engine::units::Duration;

use crate::setup::Setup;

/// A reduced sandbox.
#[derive(Clone, Debug)]
pub(crate) struct Reduced {
    pub layout: Layout,
    /// Where its base pages are.
    pub base: Option<(SandboxId, NodeId)>,
    codec: Codec,
    /// Core time that filling its memory still takes when its request is answered.
    pub rest: Duration,
}

/// Who shares base pages with whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Scope {
    Function(FunctionId),
    Owner(u32),
    Cluster,
}

/// Codec sizes and the registry of bases.
pub(crate) struct Memory {
    patch: Codec,
    alone: Codec,
    own: BTreeMap<FunctionId, Vec<(SandboxId, NodeId)>>,
    by_runtime: BTreeMap<(Scope, String), BTreeSet<SandboxId>>,
    libraries: BTreeMap<(Scope, String), u32>,
    nodes: BTreeMap<SandboxId, (NodeId, FunctionId)>,
}

impl Memory {
    pub fn new(setup: &Setup) -> Self {
        let codecs = &setup.profiles.codec;
        let named = codecs.get(&setup.config.codec).cloned().unwrap_or_else(whole_pages);
        let alone = if named.kind == CodecKind::Alone {
            named.clone()
        } else {
            let first_alone = || codecs.values().find(|c| c.kind == CodecKind::Alone);
            codecs
                .get("lz4")
                .filter(|c| c.kind == CodecKind::Alone)
                .or_else(first_alone)
                .cloned()
                .unwrap_or_else(whole_pages)
        };
        Self {
            patch: named,
            alone,
            own: BTreeMap::new(),
            by_runtime: BTreeMap::new(),
            libraries: BTreeMap::new(),
            nodes: BTreeMap::new(),
        }
    }

    /// Whose bases a function may use: the key under which the registry files them.
    fn scope(setup: &Setup, function: FunctionId) -> Scope {
        match setup.config.dedup_scope {
            _ if !setup.config.shares_bases(function) => Scope::Function(function),
            DedupScope::Function => Scope::Function(function),
            DedupScope::Owner => Scope::Owner(setup.functions[function.index()].owner),
            DedupScope::Cluster => Scope::Cluster,
        }
    }

    pub fn add_base(&mut self, setup: &Setup, id: SandboxId, function: FunctionId, node: NodeId) {
        let (scope, profile) = (Self::scope(setup, function), setup.profile(function));
        self.own.entry(function).or_default().push((id, node));
        self.by_runtime.entry((scope, profile.runtime.clone())).or_default().insert(id);
        for library in &profile.libraries {
            *self.libraries.entry((scope, library.clone())).or_default() += 1;
        }
        self.nodes.insert(id, (node, function));
    }

    /// Forgets a base; `false` if it was none.
    pub fn remove_base(&mut self, setup: &Setup, id: SandboxId) -> bool {
        let Some((_, function)) = self.nodes.remove(&id) else { return false };
        let (scope, profile) = (Self::scope(setup, function), setup.profile(function));
        if let Some(own) = self.own.get_mut(&function) {
            own.retain(|(b, _)| *b != id);
        }
        if let Some(bases) = self.by_runtime.get_mut(&(scope, profile.runtime.clone())) {
            bases.remove(&id);
        }
        for library in &profile.libraries {
            if let Some(count) = self.libraries.get_mut(&(scope, library.clone())) {
                *count -= 1;
            }
        }
        true
    }

    pub fn bases_on(&self, node: NodeId) -> Vec<SandboxId> {
        self.nodes.iter().filter(|(_, (n, _))| *n == node).map(|(id, _)| *id).collect()
    }

    /// The least that a reduced sandbox of `function` can weigh, however many bases there are.
    pub fn smallest(&self, setup: &Setup, function: FunctionId, method: Method) -> medes_engine::units::Bytes {
        let (codec, own_bases) = match method {
            Method::Patches => (&self.patch, u32::MAX),
            Method::Compression => (&self.alone, 0),
        };
        let layout = setup.profile(function).layout(&Query {
            memory: setup.functions[function.index()].memory,
            chunksperpage: setup.config.chunksperpage,
            patchthreshold: setup.config.patchthreshold,
            codec,
            own_bases,
            runtime_base: true,
            library_share: 1.0,
        });
        layout.stored_bytes()
    }

    /// Reduces a sandbox of `function` on `node`.
    pub fn reduce(
        &self,
        setup: &Setup,
        engine: &Engine,
        function: FunctionId,
        node: NodeId,
        method: Method,
    ) -> Reduced {
        let (scope, profile) = (Self::scope(setup, function), setup.profile(function));
        let config = &setup.config;
        let own = self.own.get(&function).map_or(&[][..], Vec::as_slice);
        let any = self.by_runtime.get(&(scope, profile.runtime.clone())).and_then(BTreeSet::first).copied();
        let (codec, bases) = match method {
            Method::Patches => (&self.patch, own.len() as u32),
            Method::Compression => (&self.alone, 0),
        };
        let there = |l: &&String| self.libraries.get(&(scope, (*l).clone())).is_some_and(|n| *n > 0);
        let libraries = profile.libraries.len().max(1) as f64;
        let layout = profile.layout(&Query {
            memory: setup.functions[function.index()].memory,
            chunksperpage: config.chunksperpage,
            patchthreshold: config.patchthreshold,
            codec,
            own_bases: bases,
            runtime_base: any.is_some(),
            library_share: profile.libraries.iter().filter(there).count() as f64 / libraries,
        });
        let [_, w_refcount, w_local] = config.basechoice;
        let score = |(id, at): &(SandboxId, NodeId)| {
            w_refcount * f64::from(engine.references(*id).unwrap_or(0)) + if *at == node { w_local } else { 0.0 }
        };
        let mut best: Option<(f64, (SandboxId, NodeId))> = None;
        for base in own {
            let s = score(base);
            if best.is_none_or(|(b, _)| s > b) {
                best = Some((s, *base));
            }
        }
        let reads = layout.own_reads() + layout.any_function;
        let base = match method {
            Method::Patches if reads > 0.0 => {
                best.map(|(_, b)| b).or_else(|| any.and_then(|id| self.nodes.get(&id).map(|(n, _)| (id, *n))))
            }
            _ => None,
        };
        Reduced { layout, base, codec: codec.clone(), rest: Duration::ZERO }
    }
}

/// Stands for a codec that is not there: pages are kept as they are.
fn whole_pages() -> Codec {
    Codec {
        kind: CodecKind::Patch,
        header_bytes: f64::MAX,
        site_bytes: 0.0,
        byte_factor: 0.0,
        alone: None,
        encode_us: 0.0,
        decode_us: 0.0,
    }
}

impl Reduced {
    /// Pages read from the base at a restore, and once when patches are made.
    pub fn pages_read(&self) -> f64 {
        self.layout.own_reads() + self.layout.any_function
    }

    /// Work of reducing beside the checkpoint and the reads: fingerprints, lookups, encoding.
    pub fn encode_time(&self, setup: &Setup, config: &Config) -> Duration {
        let l = &self.layout;
        let costs = &setup.profiles.costs;
        let occupied = l.pages - l.zero;
        let hashing = match self.codec.kind {
            CodecKind::Alone => 0.0,
            CodecKind::Patch | CodecKind::Auto => {
                let chunks = f64::from(config.chunksperpage);
                l.pages * costs.fingerprint_page_us
                    + occupied * chunks * (costs.fingerprint_chunk_us + costs.lookup_chunk_us)
            }
        };
        Duration::from_millis_f64((hashing + (l.patched + l.compressed) * self.codec.encode_us) / 1e3)
    }

    /// Work of rebuilding the pages once the base pages are there.
    pub fn decode_time(&self, setup: &Setup) -> Duration {
        let l = &self.layout;
        let copied = l.pages - l.zero;
        let us = (l.patched + l.compressed) * self.codec.decode_us + copied * setup.profiles.costs.copy_page_us;
        Duration::from_millis_f64(us / 1e3)
    }
}
