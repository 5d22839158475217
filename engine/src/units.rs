//! Quantities with their unit in the type: a point in time, a length of time, a number of bytes.
//!
//! Time is counted in whole microseconds since the start of the run and memory in whole bytes, both
//! in 64 bits, so that sums are exact and the same on every machine. Floating point is used only where
//! a quantity enters or leaves (a file, a figure) and in the policies' equations.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Mul, Sub, SubAssign};

use serde::{Deserialize, Serialize};

/// Bytes of one memory page.
pub const PAGE_BYTES: usize = 4096;

/// A point in time: microseconds since the run began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Instant(u64);

/// A length of time in microseconds; never negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Duration(u64);

/// An amount of memory in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Bytes(u64);

/// Largest microsecond count that a float converts to: beyond any run, and safe to add to.
const MAX_MICROS: f64 = (1u64 << 62) as f64;

impl Instant {
    /// The start of the run.
    pub const ZERO: Self = Self(0);
    /// Later than any event.
    pub const FAR: Self = Self(u64::MAX);

    /// The instant `micros` microseconds after the start.
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// The instant `secs` seconds after the start; negative and NaN give the start.
    pub fn from_secs_f64(secs: f64) -> Self {
        Self(Duration::from_secs_f64(secs).0)
    }

    /// Microseconds since the start.
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// Seconds since the start.
    pub fn as_secs_f64(self) -> f64 {
        self.0 as f64 / 1e6
    }

    /// Whole minutes since the start.
    pub const fn minute(self) -> u64 {
        self.0 / 60_000_000
    }

    /// The time from `earlier` to `self`, zero if `earlier` is later.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration(self.0.saturating_sub(earlier.0))
    }
}

impl Duration {
    /// No time at all.
    pub const ZERO: Self = Self(0);
    /// Longer than any run: a deadline this far away never comes.
    pub const FOREVER: Self = Self(u64::MAX);

    /// `micros` microseconds.
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// `millis` milliseconds.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis.saturating_mul(1_000))
    }

    /// `secs` seconds.
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs.saturating_mul(1_000_000))
    }

    /// `millis` milliseconds, to the nearest microsecond; negative and NaN give zero.
    pub fn from_millis_f64(millis: f64) -> Self {
        Self((millis * 1e3).round().clamp(0.0, MAX_MICROS) as u64)
    }

    /// `secs` seconds, to the nearest microsecond; negative and NaN give zero.
    pub fn from_secs_f64(secs: f64) -> Self {
        Self((secs * 1e6).round().clamp(0.0, MAX_MICROS) as u64)
    }

    /// Whole microseconds.
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// Milliseconds.
    pub fn as_millis_f64(self) -> f64 {
        self.0 as f64 / 1e3
    }

    /// Seconds.
    pub fn as_secs_f64(self) -> f64 {
        self.0 as f64 / 1e6
    }

    /// This time taken `times` times, saturating.
    pub const fn times(self, times: u64) -> Self {
        Self(self.0.saturating_mul(times))
    }

    /// `self - other`, zero if `other` is longer.
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl Bytes {
    /// No memory.
    pub const ZERO: Self = Self(0);
    /// More than any machine has.
    pub const MAX: Self = Self(u64::MAX);

    /// `bytes` bytes.
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// `mb` megabytes of 10^6 bytes, to the nearest byte; negative and NaN give zero.
    pub fn from_mb(mb: f64) -> Self {
        Self((mb * 1e6).round().clamp(0.0, MAX_MICROS) as u64)
    }

    /// The number of bytes.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Megabytes of 10^6 bytes.
    pub fn as_mb(self) -> f64 {
        self.0 as f64 / 1e6
    }

    /// The part `ratio` of it, to the nearest byte; negative and NaN give zero.
    pub fn scale(self, ratio: f64) -> Self {
        Self((self.0 as f64 * ratio).round().clamp(0.0, MAX_MICROS) as u64)
    }

    /// `self - other`, zero if `other` is larger.
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// `self - other`, or `None` if `other` is larger.
    pub fn checked_sub(self, other: Self) -> Option<Self> {
        self.0.checked_sub(other.0).map(Self)
    }
}

impl Add<Duration> for Instant {
    type Output = Self;
    fn add(self, d: Duration) -> Self {
        Self(self.0.saturating_add(d.0))
    }
}

impl Add for Duration {
    type Output = Self;
    fn add(self, d: Self) -> Self {
        Self(self.0.saturating_add(d.0))
    }
}

impl AddAssign for Duration {
    fn add_assign(&mut self, d: Self) {
        *self = *self + d;
    }
}

impl Sum for Duration {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::ZERO, Add::add)
    }
}

impl Add for Bytes {
    type Output = Self;
    fn add(self, b: Self) -> Self {
        Self(self.0 + b.0)
    }
}

impl AddAssign for Bytes {
    fn add_assign(&mut self, b: Self) {
        self.0 += b.0;
    }
}

impl Sub for Bytes {
    type Output = Self;
    fn sub(self, b: Self) -> Self {
        Self(self.0 - b.0)
    }
}

impl SubAssign for Bytes {
    fn sub_assign(&mut self, b: Self) {
        self.0 -= b.0;
    }
}

impl Mul<u64> for Bytes {
    type Output = Self;
    fn mul(self, n: u64) -> Self {
        Self(self.0 * n)
    }
}

impl Sum for Bytes {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::ZERO, Add::add)
    }
}

impl fmt::Display for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.6} s", self.as_secs_f64())
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            u64::MAX => f.write_str("for ever"),
            us if us < 1_000 => write!(f, "{us} µs"),
            us if us < 1_000_000 => write!(f, "{} ms", us as f64 / 1e3),
            us => write!(f, "{} s", us as f64 / 1e6),
        }
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            b if b < 1_000 => write!(f, "{b} B"),
            b if b < 1_000_000 => write!(f, "{:.1} kB", b as f64 / 1e3),
            b if b < 1_000_000_000 => write!(f, "{:.1} MB", b as f64 / 1e6),
            b => write!(f, "{:.2} GB", b as f64 / 1e9),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_enter_by_rounding_and_never_wrap() {
        assert_eq!(Duration::from_millis_f64(0.0004), Duration::ZERO);
        assert_eq!(Duration::from_millis_f64(0.0006), Duration::from_micros(1));
        assert_eq!(Duration::from_secs_f64(-3.0), Duration::ZERO);
        assert_eq!(Duration::from_secs_f64(f64::NAN), Duration::ZERO);
        assert_eq!(Bytes::from_mb(26.4).get(), 26_400_000);
        let far = Instant::ZERO + Duration::from_secs_f64(f64::INFINITY);
        assert!(far < Instant::FAR);
        assert_eq!(far + Duration::FOREVER, Instant::FAR);
    }

    #[test]
    fn time_between_instants_is_never_negative() {
        let (a, b) = (Instant::from_micros(5), Instant::from_micros(9));
        assert_eq!(b.since(a), Duration::from_micros(4));
        assert_eq!(a.since(b), Duration::ZERO);
    }
}
