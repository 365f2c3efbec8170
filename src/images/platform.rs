//! Which manifest of an index is for this device.

use super::manifest::{Descriptor, Platform, architecture};

impl Platform {
    /// How well it fits this device: the smallest number fits best; `None` does not run here.
    pub(super) fn fit(&self) -> Option<u8> {
        fit_on(self, architecture(), features())
    }
}

/// The processor's level within its architecture: `v8`... of ARM, `v1`... of x86-64.
fn features() -> u8 {
    match std::env::consts::ARCH {
        "arm" => 7,
        "aarch64" => 8,
        _ => x86_level(),
    }
}

#[cfg(target_arch = "x86_64")]
fn x86_level() -> u8 {
    use std::arch::is_x86_feature_detected as has;
    let two = has!("sse4.2") && has!("popcnt") && has!("ssse3") && has!("cmpxchg16b");
    let three = two && has!("avx2") && has!("bmi1") && has!("bmi2") && has!("fma") && has!("lzcnt") && has!("movbe");
    1 + u8::from(two) + u8::from(three)
}

#[cfg(not(target_arch = "x86_64"))]
fn x86_level() -> u8 {
    1
}

/// The highest level that the processor has is best; one without a level runs on all, as the lowest does.
fn fit_on(platform: &Platform, architecture: &str, level: u8) -> Option<u8> {
    if platform.os != "linux" || platform.architecture != architecture {
        return None;
    }
    let lowest = match architecture {
        "arm" => 5,
        "arm64" => 8,
        _ => 1,
    };
    let wanted = match platform.variant.strip_prefix('v') {
        None if platform.variant.is_empty() => lowest,
        Some(number) => number.split('.').next().and_then(|number| number.parse().ok())?,
        None => return None,
    };
    level.checked_sub(wanted)
}

/// The manifest of an index that fits this device best; the first of equals.
pub(super) fn best(manifests: &[Descriptor]) -> Option<&Descriptor> {
    let fit = |entry: &Descriptor| match &entry.platform {
        Some(platform) => platform.fit(),
        // It does not say: better than nothing.
        None => Some(u8::MAX),
    };
    manifests.iter().filter(|entry| fit(entry).is_some()).min_by_key(|entry| fit(entry))
}

/// What an index has, for a message.
pub(super) fn listed(manifests: &[Descriptor]) -> String {
    let words =
        manifests.iter().filter_map(|entry| entry.platform.as_ref()).filter(|platform| platform.os != "unknown");
    let words = words.map(|platform| match platform.variant.as_str() {
        "" => format!("{}/{}", platform.os, platform.architecture),
        variant => format!("{}/{}/{variant}", platform.os, platform.architecture),
    });
    words.take(12).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        let mut parts = text.split('/').map(str::to_owned);
        let mut next = || parts.next().unwrap_or_default();
        Platform { os: next(), architecture: next(), variant: next() }
    }

    #[test]
    fn the_best_variant_that_runs_is_taken() {
        let order = |architecture, level, words: &[&str]| {
            let fit = |word: &&&str| fit_on(&platform(word), architecture, level);
            let mut fitting: Vec<&str> = words.iter().filter(|word| fit(word).is_some()).copied().collect();
            fitting.sort_by_key(|word| fit(&word));
            fitting.join(" ")
        };
        let arm = ["linux/arm/v5", "linux/arm/v6", "linux/arm/v7", "linux/arm64/v8", "linux/arm", "windows/arm/v7"];
        assert_eq!(order("arm", 7, &arm), "linux/arm/v7 linux/arm/v6 linux/arm/v5 linux/arm");
        assert_eq!(order("arm", 6, &arm), "linux/arm/v6 linux/arm/v5 linux/arm");
        assert_eq!(
            order("arm64", 8, &["linux/arm64/v8", "linux/arm64", "linux/arm64/v9"]),
            "linux/arm64/v8 linux/arm64"
        );
        assert_eq!(
            order("amd64", 2, &["linux/amd64/v3", "linux/amd64", "linux/amd64/v2"]),
            "linux/amd64/v2 linux/amd64"
        );
        assert_eq!(order("amd64", 1, &["unknown/unknown", "linux/amd64/odd"]), "");
    }
}
