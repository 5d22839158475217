//! Reads of base pages: from memory of the same node, or over its link from another node's.
//!
//! Each node has one link with a latency and a bandwidth. A transfer takes the reader's and the owner's link,
//! one transfer at a time, in the order in which they are asked for; reads are posted one after the other.
//! Left out: switches, congestion inside the network, priorities, loss.

use medes_engine::config::Config;
use medes_engine::id::NodeId;
use medes_engine::profile::Costs;
use medes_engine::units::{Duration, Instant, PAGE_BYTES};

#[derive(Debug)]
pub(crate) struct Network {
    latency: Duration,
    us_per_page: f64,
    us_per_read: f64,
    run_pages: f64,
    us_per_local_page: f64,
    /// When each node's link is free.
    free_at: Vec<Instant>,
}

impl Network {
    /// The network of `config`, where it says nothing that of `costs`.
    pub fn new(costs: &Costs, config: &Config) -> Self {
        let page_bits = PAGE_BYTES as f64 * 8.0;
        let of_profile = Duration::from_micros(costs.network_latency_us.round() as u64);
        Self {
            latency: config.network_latency.unwrap_or(of_profile),
            us_per_page: page_bits / (config.network_bandwidth.unwrap_or(costs.network_gbps) * 1e3),
            us_per_read: costs.read_post_us,
            run_pages: costs.run_pages,
            us_per_local_page: page_bits / (costs.local_gbps * 1e3),
            free_at: vec![Instant::ZERO; config.nodes as usize],
        }
    }

    /// When `pages` pages on `from`, asked for at `now`, have arrived on `to`.
    pub fn read(&mut self, now: Instant, from: NodeId, to: NodeId, pages: f64) -> Instant {
        if pages <= 0.0 {
            return now;
        }
        if from == to {
            return now + Duration::from_millis_f64(pages * self.us_per_local_page / 1e3);
        }
        let start = now.max(self.free_at[from.index()]).max(self.free_at[to.index()]);
        let us = pages * self.us_per_page + pages / self.run_pages * self.us_per_read;
        let free = start + Duration::from_millis_f64(us / 1e3);
        self.free_at[from.index()] = free;
        self.free_at[to.index()] = free;
        free + self.latency
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_queue_on_a_link_and_local_ones_do_not() {
        let costs = Costs {
            fingerprint_page_us: 0.0,
            fingerprint_chunk_us: 0.0,
            lookup_chunk_us: 0.0,
            copy_page_us: 0.0,
            network_latency_us: 10.0,
            network_gbps: 32.768, // a page a microsecond
            read_post_us: 2.0,
            run_pages: 4.0,
            local_gbps: 327.68,
            agent_mb: 0.0,
            probe_us: 0.0,
            control: medes_engine::profile::Latency::constant(0.0),
        };
        let (a, b, c, d) = (NodeId(0), NodeId(1), NodeId(2), NodeId(3));
        let mut config = Config::default();
        config.set("nodes", "4").unwrap();
        let mut net = Network::new(&costs, &config);
        let us = |i: Instant| i.as_micros();
        // 100 pages: 100 us of bandwidth, 25 reads of 2 us, 10 us latency.
        assert_eq!(us(net.read(Instant::ZERO, a, b, 100.0)), 160);
        assert_eq!(us(net.read(Instant::ZERO, a, c, 100.0)), 310); // waits for a's link
        assert_eq!(us(net.read(Instant::ZERO, d, d, 100.0)), 10);
        assert_eq!(us(net.read(Instant::ZERO, d, b, 100.0)), 310); // waits for b's link until 150
        assert_eq!(us(net.read(Instant::from_micros(7), a, b, 0.0)), 7);

        // Half the bandwidth and ten times the latency, by the run's own parameters.
        config.set("network_latency", "100").unwrap();
        config.set("network_bandwidth", "16.384").unwrap();
        assert_eq!(us(Network::new(&costs, &config).read(Instant::ZERO, a, b, 100.0)), 350);
    }
}
