//! What counts: numbers that several threads change without waiting for each other.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of a histogram's buckets, in seconds: from a fast disk to a slow link.
pub const BOUNDS: [f64; 16] =
    [0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Nothing was counted yet.
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// One more.
    pub fn one(&self) {
        self.add(1);
    }

    /// So many more.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// How many there were.
    pub fn total(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How many there are.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// There is none.
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// There is one more until what is returned is dropped.
    pub fn hold(&'static self) -> Held {
        self.0.fetch_add(1, Ordering::Relaxed);
        Held(self)
    }

    /// How many there are now.
    pub fn now(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One that a [`Gauge`] counts.
#[derive(Debug)]
pub struct Held(&'static Gauge);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How long things took.
#[derive(Debug)]
pub struct Histogram {
    /// For each bound those up to it and over the one before; the last has those over all bounds.
    buckets: [AtomicU64; BOUNDS.len() + 1],
    nanoseconds: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self::new()
    }
}

impl Histogram {
    /// Nothing was measured yet.
    pub const fn new() -> Self {
        Self { buckets: [const { AtomicU64::new(0) }; BOUNDS.len() + 1], nanoseconds: AtomicU64::new(0) }
    }

    /// Takes one in.
    pub fn record(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let bucket = BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS.len());
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.nanoseconds.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// How many were taken in.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).sum()
    }

    /// How many took up to each bound and, last, how many there are; and the sum of all in seconds.
    pub(super) fn cumulative(&self) -> ([u64; BOUNDS.len() + 1], f64) {
        let mut counts = [0; BOUNDS.len() + 1];
        let mut below = 0;
        for (count, bucket) in counts.iter_mut().zip(&self.buckets) {
            below += bucket.load(Ordering::Relaxed);
            *count = below;
        }
        (counts, Duration::from_nanos(self.nanoseconds.load(Ordering::Relaxed)).as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_counts_up_to_each_bound() {
        let histogram = Histogram::new();
        for micros in [50, 100, 101, 20_000_000] {
            histogram.record(Duration::from_micros(micros));
        }
        let (counts, sum) = histogram.cumulative();
        assert_eq!(counts[..3], [2, 3, 3]);
        assert_eq!(counts[BOUNDS.len() - 1..], [3, 4], "the last bound, and all");
        assert!((sum - 20.000_251).abs() < 1e-9, "{sum}");
    }

    #[test]
    fn a_gauge_follows_what_is_held() {
        static OPEN: Gauge = Gauge::new();
        let held = [OPEN.hold(), OPEN.hold()];
        assert_eq!(OPEN.now(), 2);
        drop(held);
        assert_eq!(OPEN.now(), 0);
    }
}
