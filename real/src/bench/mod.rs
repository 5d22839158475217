//! How fast a transport reads: reads a second, bytes a second and latencies against the length of runs and the number of runs read at
//! once; and the simulator's model of the network that fits it best.

mod beds;
mod offer;

use std::time::{Duration, Instant};

pub use beds::{Bed, BedError, Offered, Place, TRANSPORTS, here, offers, toward};
pub use offer::{ask, serve};
use serde::Serialize;

use crate::transport::{PAGE, PageRun, Region, Transport, TransportError};

/// One point of the benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Shape {
    /// Adjacent pages of a run.
    pub run_pages: u32,
    /// Runs read by one call: so many reads are posted together.
    pub depth: u32,
}

/// What was measured at one point.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// The transport.
    pub transport: String,
    /// The point.
    #[serde(flatten)]
    pub shape: Shape,
    /// Runs read.
    pub reads: u64,
    /// Runs read a second.
    pub reads_per_s: f64,
    /// 10^9 bytes a second.
    pub gb_per_s: f64,
    /// Microseconds from the call to the arrival of its last page: median, 99th and 99.9th percentile of the calls.
    pub p50_us: f64,
    /// As above.
    pub p99_us: f64,
    /// As above.
    pub p999_us: f64,
}

impl Shape {
    /// Pages of one call.
    pub fn pages(&self) -> u64 {
        u64::from(self.run_pages) * u64::from(self.depth)
    }

    /// The runs of the `number`-th call on a region: apart from each other, so that no two become one read, in another place each time.
    /// None if the region is too small for that.
    fn runs(&self, region: &Region, number: u64) -> Option<Vec<PageRun>> {
        let stride = self.run_pages.checked_add(1)?;
        let places = (region.pages + 1) / stride;
        let start = (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32;
        let run = |i: u32| PageRun { first: (start % places + i) % places * stride, pages: self.run_pages };
        (places > self.depth).then(|| (0..self.depth).map(run).collect())
    }
}

/// Reads from a region for about `time`, at least 20 calls.
///
/// # Errors
/// A read failed. A region that is too small for the shape gives no row.
pub fn measure(
    name: &str,
    transport: &dyn Transport,
    region: &Region,
    shape: Shape,
    time: Duration,
) -> Result<Option<Row>, TransportError> {
    let bytes = (shape.pages() * PAGE) as usize;
    let failed = |reason: String| TransportError::Failed { peer: region.owner, reason };
    let mut buffer = transport.buffer(bytes).map_err(|e| failed(e.to_string()))?;
    let mut took: Vec<Duration> = Vec::new();
    let mut began = Instant::now();
    for number in 0.. {
        let Some(runs) = shape.runs(region, number) else { return Ok(None) };
        let call = Instant::now();
        transport.read(region, &runs, &mut buffer, call + Duration::from_secs(30))?;
        if number == 0 {
            // The first call connects.
            began = Instant::now();
            continue;
        }
        took.push(call.elapsed());
        if number >= 20 && began.elapsed() >= time {
            break;
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    took.sort_unstable();
    let percentile = |p: f64| took[((took.len() - 1) as f64 * p).round() as usize].as_secs_f64() * 1e6;
    let reads = took.len() as u64 * u64::from(shape.depth);
    Ok(Some(Row {
        transport: name.into(),
        shape,
        reads,
        reads_per_s: reads as f64 / seconds,
        gb_per_s: (took.len() as u64 * shape.pages() * PAGE) as f64 / seconds / 1e9,
        p50_us: percentile(0.5),
        p99_us: percentile(0.99),
        p999_us: percentile(0.999),
    }))
}

/// The simulator's model of a network (`[costs]` of a profile set): a read of n pages keeps a link for `read_post_us` and n pages at
/// `network_gbps`, and arrives `network_latency_us` later.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct NetworkModel {
    /// Microseconds.
    pub network_latency_us: f64,
    /// 10^9 bits a second.
    pub network_gbps: f64,
    /// Microseconds a read.
    pub read_post_us: f64,
}

/// The model that fits one transport's rows: time a read at the largest depth against its pages (least squares of relative
/// errors) gives bandwidth and cost of a read; what a call of one read takes above that is latency.
///
/// Nothing if the rows have fewer than two lengths, or longer reads that take no longer.
pub fn fit(rows: &[Row]) -> Option<NetworkModel> {
    let depth = rows.iter().map(|r| r.shape.depth).max()?;
    let deep: Vec<(f64, f64)> = rows
        .iter()
        .filter(|r| r.shape.depth == depth && r.reads_per_s > 0.0)
        .map(|r| (f64::from(r.shape.run_pages), 1e6 / r.reads_per_s))
        .collect();
    // Weights 1 / time^2: short reads count as much as long ones.
    let sum = |f: &dyn Fn(f64, f64) -> f64| deep.iter().map(|(n, t)| f(*n, *t) / (t * t)).sum::<f64>();
    let (w, x, y) = (sum(&|_, _| 1.0), sum(&|n, _| n), sum(&|_, t| t));
    let (xx, xy) = (sum(&|n, _| n * n), sum(&|n, t| n * t));
    let spread = w * xx - x * x;
    // All of one length: no slope. (The sums of a single length differ by rounding only.)
    if spread <= 1e-9 * w * xx {
        return None;
    }
    let us_per_page = (w * xy - x * y) / spread;
    if us_per_page.is_nan() || us_per_page <= 0.0 {
        return None;
    }
    let post = ((y - us_per_page * x) / w).max(0.0);
    let alone = rows.iter().filter(|r| r.shape.depth == 1).min_by_key(|r| r.shape.run_pages);
    let above = |r: &Row| r.p50_us - post - us_per_page * f64::from(r.shape.run_pages);
    Some(NetworkModel {
        network_latency_us: alone.map_or(0.0, above).max(0.0),
        network_gbps: PAGE as f64 * 8.0 / us_per_page / 1e3,
        read_post_us: post,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use medes_engine::id::NodeId;

    use super::*;
    use crate::memory::SharedMemory;
    use crate::transport::local::Local;

    #[test]
    fn a_planted_model_is_found_again() {
        // 4 us latency, 0.5 us a read, 32.768 Gbit/s (a page a microsecond).
        let row = |run_pages: u32, depth: u32| {
            let busy = 0.5 + f64::from(run_pages);
            let call = 4.0 + busy * f64::from(depth);
            let shape = Shape { run_pages, depth };
            let reads_per_s = if depth == 1 { 1e6 / call } else { 1e6 / busy };
            Row {
                transport: "t".into(),
                shape,
                reads: 1,
                reads_per_s,
                gb_per_s: 0.0,
                p50_us: call,
                p99_us: call,
                p999_us: call,
            }
        };
        let rows: Vec<Row> = [1, 4, 16, 64].into_iter().flat_map(|n| [row(n, 1), row(n, 32)]).collect();
        let model = fit(&rows).expect("a model");
        assert!((model.network_latency_us - 4.0).abs() < 1e-6, "{model:?}");
        assert!((model.network_gbps - 32.768).abs() < 1e-6, "{model:?}");
        assert!((model.read_post_us - 0.5).abs() < 1e-6, "{model:?}");
        assert_eq!(fit(&rows[..2]), None, "one length");
        assert_eq!(fit(&[]), None);
    }

    #[test]
    fn runs_of_a_call_neither_touch_nor_leave_the_region() {
        let region = Region { owner: NodeId(0), incarnation: 0, address: 0, key: 0, pages: 100 };
        for (run_pages, depth) in [(1, 1), (1, 49), (4, 19), (32, 2)] {
            let shape = Shape { run_pages, depth };
            for number in 0..50 {
                let mut runs = shape.runs(&region, number).expect("room");
                runs.sort_unstable();
                assert_eq!(runs.len(), depth as usize);
                assert!(runs.windows(2).all(|w| w[0].first + w[0].pages < w[1].first), "{runs:?}");
                assert!(runs.iter().all(|r| r.first + r.pages <= 100), "{runs:?}");
            }
        }
        assert_eq!(Shape { run_pages: 99, depth: 2 }.runs(&region, 0), None);
        assert_eq!(Shape { run_pages: u32::MAX, depth: 1 }.runs(&region, 0), None);
    }

    #[test]
    fn a_row_counts_what_was_read() {
        let local = Local::new(NodeId(0)).expect("a transport");
        let region =
            local.publish(Arc::new(SharedMemory::zeroed("medes-bench", 1 << 20).expect("memory"))).expect("published");
        let shape = Shape { run_pages: 4, depth: 8 };
        let row = measure("local", &local, &region, shape, Duration::ZERO).expect("reads").expect("a row");
        assert_eq!(row.reads, 20 * 8);
        assert!(row.p50_us <= row.p99_us && row.p99_us <= row.p999_us);
        let ratio = row.gb_per_s * 1e9 / (row.reads_per_s * 4.0 * 4096.0);
        assert!((ratio - 1.0).abs() < 1e-9, "bytes and reads agree");
        assert!(
            measure("local", &local, &region, Shape { run_pages: 200, depth: 8 }, Duration::ZERO)
                .expect("reads")
                .is_none()
        );
    }
}
