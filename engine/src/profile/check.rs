//! Whether the numbers of a profile set can be what they are said to be.

use super::ProfileSet;
use crate::latency::Latency;

/// What a profile file can get wrong.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum ProfileError {
    /// No function in the set.
    #[error("profile set `{set}` has no [[function]]; add at least one")]
    Empty {
        /// Name of the set.
        set: String,
    },
    /// A number outside its range.
    #[error("profile set `{set}`, {owner}: `{key}` is {value}; it must be {range}")]
    Range {
        /// Name of the set.
        set: String,
        /// Function, codec or table that holds it.
        owner: String,
        /// The key.
        key: &'static str,
        /// The value found.
        value: f64,
        /// What is allowed.
        range: &'static str,
    },
    /// Page shares that do not add up.
    #[error(
        "profile set `{set}`, function {function}: its page shares sum to {sum}; they must sum to 1 (within 0.001)"
    )]
    Shares {
        /// Name of the set.
        set: String,
        /// The function.
        function: String,
        /// Their sum.
        sum: f64,
    },
    /// A compression ratio that a codec refers to is absent.
    #[error("profile set `{set}`, function {function}: no `compressed.{codec}`, which codec `{codec}` needs")]
    Compressed {
        /// Name of the set.
        set: String,
        /// The function.
        function: String,
        /// The codec.
        codec: String,
    },
}

impl ProfileSet {
    /// Checks ranges and sums.
    ///
    /// # Errors
    /// The first thing that is wrong, named.
    pub fn check(&self) -> Result<(), ProfileError> {
        if self.function.is_empty() {
            return Err(ProfileError::Empty { set: self.name.clone() });
        }
        let costs = &self.costs;
        let mut numbers: Vec<(String, &'static str, f64, Range)> = vec![
            ("costs".into(), "fingerprint_page_us", costs.fingerprint_page_us, Range::NotNegative),
            ("costs".into(), "fingerprint_chunk_us", costs.fingerprint_chunk_us, Range::NotNegative),
            ("costs".into(), "lookup_chunk_us", costs.lookup_chunk_us, Range::NotNegative),
            ("costs".into(), "copy_page_us", costs.copy_page_us, Range::NotNegative),
            ("costs".into(), "network_latency_us", costs.network_latency_us, Range::NotNegative),
            ("costs".into(), "network_gbps", costs.network_gbps, Range::Positive),
            ("costs".into(), "read_post_us", costs.read_post_us, Range::NotNegative),
            ("costs".into(), "run_pages", costs.run_pages, Range::Positive),
            ("costs".into(), "local_gbps", costs.local_gbps, Range::Positive),
            ("costs".into(), "agent_mb", costs.agent_mb, Range::NotNegative),
            ("costs".into(), "probe_us", costs.probe_us, Range::NotNegative),
            ("costs".into(), "control", costs.control.median_ms, Range::NotNegative),
            ("costs".into(), "control", costs.control.p99_ms - costs.control.median_ms, Range::NotNegative),
            ("costs".into(), "control", costs.control.cores, Range::NotNegative),
        ];
        for (name, codec) in &self.codec {
            let owner = format!("codec {name}");
            numbers.extend([
                (owner.clone(), "header_bytes", codec.header_bytes, Range::NotNegative),
                (owner.clone(), "site_bytes", codec.site_bytes, Range::NotNegative),
                (owner.clone(), "byte_factor", codec.byte_factor, Range::NotNegative),
                (owner.clone(), "encode_us", codec.encode_us, Range::NotNegative),
                (owner, "decode_us", codec.decode_us, Range::NotNegative),
            ]);
        }
        for f in &self.function {
            let owner = format!("function {}", f.name);
            let runs = f.exec_percentiles_ms.unwrap_or_default();
            let rises = std::iter::once(runs[0]).chain(runs.windows(2).map(|pair| pair[1] - pair[0]));
            numbers.extend(rises.map(|rise| {
                (owner.clone(), "exec_percentiles_ms (each less the one before)", rise, Range::NotNegative)
            }));
            let mut latency = |key, l: &Latency| {
                numbers.push((owner.clone(), key, l.median_ms, Range::NotNegative));
                numbers.push((owner.clone(), key, l.p99_ms - l.median_ms, Range::NotNegative));
                numbers.push((owner.clone(), key, l.cores, Range::NotNegative));
            };
            latency("cold", &f.cold);
            latency("warm", &f.warm);
            latency("checkpoint", &f.checkpoint);
            latency("restore", &f.restore);
            latency("resume", &f.resume);
            latency("purge", &f.purge);
            latency("control", f.control.as_ref().unwrap_or(&costs.control));
            numbers.extend([
                (owner.clone(), "keep_alive_s", f.keep_alive_s, Range::NotNegative),
                (owner.clone(), "exec_ms", f.exec_ms, Range::NotNegative),
                (owner.clone(), "memory_mb", f.memory_mb, Range::Positive),
                (owner.clone(), "starting", f.starting, Range::Share),
                (owner.clone(), "behind", f.behind.unwrap_or(1.0), Range::NotNegative),
                (owner.clone(), "resident", f.resident.as_ref().map_or(0.0, |r| r.private_mb), Range::NotNegative),
                (owner.clone(), "advantage", f.advantage, Range::Share),
                (owner.clone(), "dump_ratio", f.dump_ratio, Range::NotNegative),
                (owner.clone(), "paused_mb", f.paused_mb, Range::NotNegative),
                (owner.clone(), "base_gain", f.base_gain, Range::NotNegative),
                (owner.clone(), "pages.zero", f.pages.zero, Range::Share),
                (owner.clone(), "pages.runtime", f.pages.runtime, Range::Share),
                (owner.clone(), "pages.library", f.pages.library, Range::Share),
                (owner.clone(), "pages.stable", f.pages.stable, Range::Share),
                (owner.clone(), "pages.unique", f.pages.unique, Range::Share),
            ]);
            for size in f.resident.iter().flat_map(|r| r.files.values()) {
                numbers.push((owner.clone(), "resident.files", *size, Range::NotNegative));
            }
            for e in &f.edits {
                numbers.extend([
                    (owner.clone(), "edits.share", e.share, Range::Share),
                    (owner.clone(), "edits.sites", e.sites, Range::NotNegative),
                    (owner.clone(), "edits.bytes", e.bytes, Range::NotNegative),
                ]);
                numbers.extend(e.found.iter().map(|f| (owner.clone(), "edits.found.share", f.share, Range::Share)));
            }
            for ratio in f.compressed.values() {
                numbers.push((owner.clone(), "compressed", *ratio, Range::NotNegative));
            }
            for ratio in f.unmatched.values() {
                numbers.push((owner.clone(), "unmatched", *ratio, Range::NotNegative));
            }
        }
        for (owner, key, value, range) in numbers {
            if !range.holds(value) {
                let set = self.name.clone();
                return Err(ProfileError::Range { set, owner, key, value, range: range.says() });
            }
        }
        for f in &self.function {
            let p = &f.pages;
            let edited: f64 = f.edits.iter().map(|e| e.share).sum();
            let sum = p.zero + p.runtime + p.library + p.stable + p.unique + edited;
            if (sum - 1.0).abs() > 1e-3 {
                return Err(ProfileError::Shares { set: self.name.clone(), function: f.name.clone(), sum });
            }
            for codec in self.codec.values().filter_map(|c| c.alone.as_ref()) {
                if !f.compressed.contains_key(codec) {
                    let (set, function) = (self.name.clone(), f.name.clone());
                    return Err(ProfileError::Compressed { set, function, codec: codec.clone() });
                }
            }
        }
        Ok(())
    }
}

#[derive(Clone, Copy)]
enum Range {
    NotNegative,
    Positive,
    Share,
}

impl Range {
    fn holds(self, v: f64) -> bool {
        match self {
            Self::NotNegative => v.is_finite() && v >= 0.0,
            Self::Positive => v.is_finite() && v > 0.0,
            Self::Share => (0.0..=1.0).contains(&v),
        }
    }

    const fn says(self) -> &'static str {
        match self {
            Self::NotNegative => "a number not below 0 (and p99_ms not below median_ms)",
            Self::Positive => "above 0",
            Self::Share => "between 0 and 1",
        }
    }
}
