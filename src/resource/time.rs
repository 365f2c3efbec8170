//! Moments in wall-clock time, as they are handed into the pure half and written into objects.

use std::fmt;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::{Deserialize, Serialize};

/// A moment, in milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// This moment moved into the future, stopping at the end of time.
    #[must_use]
    pub fn plus(self, span: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)))
    }

    /// How long before this moment `earlier` was; zero when it was not.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// This moment as Kubernetes objects carry it (whole seconds once serialized).
    pub fn to_kubernetes(self) -> Time {
        let millis = i64::try_from(self.0).unwrap_or(i64::MAX);
        Time(jiff::Timestamp::from_millisecond(millis).unwrap_or(jiff::Timestamp::MAX))
    }
}

impl From<&Time> for Timestamp {
    fn from(time: &Time) -> Self {
        Self(u64::try_from(time.0.as_millisecond()).unwrap_or(0))
    }
}

/// RFC 3339 in UTC, whole seconds: `2026-01-31T07:05:09Z`.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.to_kubernetes().0.strftime("%Y-%m-%dT%H:%M:%SZ"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_rfc3339_and_survives_the_ends_of_time() {
        assert_eq!(Timestamp(0).to_string(), "1970-01-01T00:00:00Z");
        assert_eq!(Timestamp(1_769_843_109_999).to_string(), "2026-01-31T07:05:09Z");
        assert_eq!(Timestamp(5).since(Timestamp(9)), Duration::ZERO);
        let _ = Timestamp(u64::MAX).to_string();
        assert_eq!(Timestamp(u64::MAX).plus(Duration::from_secs(1)), Timestamp(u64::MAX));
    }
}
