//! How fast the host is, time and again.
//!
//! A virtual core shares a physical one with strangers: the same work was seen to take 0.4 ms in one second and 1.1 in the next, on a machine that
//! did nothing else and whose kernel counted no stolen time (docs/fidelity.md). So agents time a fixed piece of work whenever they measure
//! memory. What a real run took can then be told from what its host took, and the simulator can be given the same host.
//!
//! The work is of the kinds that starting a Python function is made of: an interpreter that jumps by data it has read, and fresh pages from the kernel.
//! It is timed on the thread's own processor clock, which stands still while others have the core.

use std::hint::black_box;
use std::sync::OnceLock;
use std::time::Duration;

use memmap2::MmapMut;

/// Steps of the interpreter, and bytes of its program: a core's own cache holds them.
const STEPS: u32 = 10_000;
const PROGRAM: usize = 256 << 10;
/// Fresh memory, bytes.
const FRESH: usize = 256 << 10;
/// The least of so many counts: what an interrupt or a cold cache adds is no slowness of the host.
const TRIES: usize = 3;

/// Time on a core that a fixed piece of work takes here and now.
pub fn probe() -> Duration {
    (0..TRIES).map(|_| once()).min().unwrap_or_default()
}

/// [`probe`] in µs.
pub fn probe_us() -> f64 {
    probe().as_secs_f64() * 1e6
}

fn once() -> Duration {
    let program = program();
    let began = thread_time();
    black_box(interpret(program));
    touch();
    thread_time().saturating_sub(began)
}

fn program() -> &'static [u8] {
    static PROGRAM_TEXT: OnceLock<Vec<u8>> = OnceLock::new();
    PROGRAM_TEXT.get_or_init(|| {
        let mut state = 1u32;
        let mut byte = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        (0..PROGRAM).map(|_| byte()).collect()
    })
}

fn interpret(program: &[u8]) -> u64 {
    let at = |place: u64| u64::from(program[place as usize % PROGRAM]);
    let (mut sum, mut next) = (1u64, 0u64);
    for _ in 0..STEPS {
        let op = at(next.wrapping_mul(61));
        sum = match op & 7 {
            0 => sum.wrapping_add(next),
            1 => sum ^ (sum >> 7),
            2 => sum.wrapping_mul(3),
            3 => sum.wrapping_sub(op),
            4 => sum.wrapping_add(at(sum >> 8)),
            5 => sum.rotate_left(5),
            6 => sum.wrapping_add(at(sum >> 3) << 3),
            _ => sum ^ op,
        };
        next = next.wrapping_mul(5).wrapping_add(1 + (sum & 3));
    }
    sum
}

fn touch() {
    // Without memory there is nothing to touch, and the host seems fast: no reason to end a run.
    let Ok(mut fresh) = MmapMut::map_anon(FRESH) else { return };
    for page in fresh.chunks_mut(4096) {
        page[0] = 1;
    }
    black_box(&fresh);
}

fn thread_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_work_is_the_same_each_time_and_takes_time() {
        assert_eq!(interpret(program()), interpret(program()));
        // All operations are in it, or it would be no interpreter.
        let seen = program().iter().fold(0u8, |seen, op| seen | 1 << (op & 7));
        assert_eq!(seen, 0xff);
        assert!(probe() > Duration::ZERO);
    }

    #[test]
    fn waiting_is_not_counted() {
        let began = thread_time();
        std::thread::sleep(Duration::from_millis(50));
        assert!(thread_time() - began < Duration::from_millis(25));
    }
}
