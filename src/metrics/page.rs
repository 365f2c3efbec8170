//! Prometheus' text format, version 0.0.4.

use std::fmt::Write as _;

use super::count::{BOUNDS, Histogram};
use super::family::{Family, Kind};

/// What a page says it is.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A page that is being written, family by family.
#[derive(Debug, Default)]
pub struct Page(String);

impl Page {
    /// A family with one number and no labels.
    pub fn one(&mut self, family: &Family, value: f64) {
        self.all(family, [([""; 0], value)]);
    }

    /// A whole number, or a count of bytes.
    pub fn count(&mut self, family: &Family, value: u64) {
        self.one(family, real(value));
    }

    /// A family with all its numbers, each with the values of the family's labels in their order.
    pub fn all<L, S>(&mut self, family: &Family, samples: impl IntoIterator<Item = (L, f64)>)
    where
        L: AsRef<[S]>,
        S: AsRef<str>,
    {
        self.head(family);
        for (values, number) in samples {
            self.sample(family.name, &labels(family, values.as_ref(), None), number);
        }
    }

    /// A family of histograms.
    pub fn histograms<'h, L, S>(&mut self, family: &Family, all: impl IntoIterator<Item = (L, &'h Histogram)>)
    where
        L: AsRef<[S]>,
        S: AsRef<str>,
    {
        self.head(family);
        for (values, histogram) in all {
            let values = values.as_ref();
            let (counts, sum) = histogram.cumulative();
            let name = format!("{}_bucket", family.name);
            for (bound, count) in BOUNDS.iter().zip(counts) {
                self.sample(&name, &labels(family, values, Some(&bound.to_string())), real(count));
            }
            let count = real(counts[BOUNDS.len()]);
            self.sample(&name, &labels(family, values, Some("+Inf")), count);
            let plain = labels(family, values, None);
            self.sample(&format!("{}_sum", family.name), &plain, sum);
            self.sample(&format!("{}_count", family.name), &plain, count);
        }
    }

    /// The text.
    pub fn finish(self) -> String {
        self.0
    }

    fn head(&mut self, family: &Family) {
        let kind = match family.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        // Writing to a string does not fail.
        let _ = writeln!(self.0, "# HELP {0} {1}\n# TYPE {0} {kind}", family.name, family.help);
    }

    fn sample(&mut self, name: &str, labels: &str, value: f64) {
        let _ = writeln!(self.0, "{name}{labels} {value}");
    }
}

/// `{a="x",le="1"}`, or nothing.
fn labels<S: AsRef<str>>(family: &Family, values: &[S], bound: Option<&str>) -> String {
    debug_assert_eq!(family.labels.len(), values.len(), "{}", family.name);
    let own = family.labels.iter().copied().zip(values.iter().map(AsRef::as_ref));
    let all: Vec<String> = own
        .chain(bound.map(|bound| ("le", bound)))
        .map(|(key, value)| format!("{key}=\"{}\"", quoted(value)))
        .collect();
    if all.is_empty() { String::new() } else { format!("{{{}}}", all.join(",")) }
}

fn quoted(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// A count as Prometheus has numbers. Beyond 2^53 the last digits are lost.
#[expect(clippy::cast_precision_loss, reason = "Prometheus knows no other numbers")]
pub fn real(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::family::Kind;
    use super::*;

    #[test]
    fn a_page_is_text_of_version_0_0_4() {
        let plain = Family { name: "kith_a_total", kind: Kind::Counter, labels: &[], help: "How often a was." };
        let named = Family { name: "kith_b", kind: Kind::Gauge, labels: &["x", "y"], help: "B." };
        let mut page = Page::default();
        page.count(&plain, 1 << 40);
        page.all(&named, [(["1", "a\"b\\c\nd"], 0.5), (["2", ""], 3.0)]);
        let wanted = "# HELP kith_a_total How often a was.\n# TYPE kith_a_total counter\nkith_a_total 1099511627776\n\
                      # HELP kith_b B.\n# TYPE kith_b gauge\nkith_b{x=\"1\",y=\"a\\\"b\\\\c\\nd\"} 0.5\nkith_b{x=\"2\",y=\"\"} 3\n";
        assert_eq!(page.finish(), wanted);
    }

    #[test]
    fn a_histogram_has_buckets_sum_and_count() {
        let family = Family { name: "kith_c_seconds", kind: Kind::Histogram, labels: &["f"], help: "C." };
        let histogram = Histogram::new();
        histogram.record(Duration::from_millis(2));
        histogram.record(Duration::from_mins(1));
        let mut page = Page::default();
        page.histograms(&family, [(["x"], &histogram)]);
        let text = page.finish();
        for line in [
            "kith_c_seconds_bucket{f=\"x\",le=\"0.001\"} 0",
            "kith_c_seconds_bucket{f=\"x\",le=\"0.0025\"} 1",
            "kith_c_seconds_bucket{f=\"x\",le=\"10\"} 1",
            "kith_c_seconds_bucket{f=\"x\",le=\"+Inf\"} 2",
            "kith_c_seconds_sum{f=\"x\"} 60.002",
            "kith_c_seconds_count{f=\"x\"} 2",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }
}
