//! A range of IPv4 addresses, and which part of it a device gives to its pods.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bits of the network in the part of one device.
const DEVICE_PREFIX: u8 = 24;

/// The smallest range that pods can live in, and the largest one.
const PREFIXES: std::ops::RangeInclusive<u8> = 8..=29;

/// A range of addresses, such as `10.42.0.0/16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Range {
    base: u32,
    prefix: u8,
}

impl Range {
    /// `10.42.0.0/16`: room for 256 devices.
    pub const DEFAULT: Self = Self { base: 0x0a2a_0000, prefix: 16 };

    /// The part of a device: a /24 that follows from its member id. A range that is no larger is not
    /// divided.
    #[must_use]
    pub fn of_device(self, member: u64) -> Self {
        if self.prefix >= DEVICE_PREFIX {
            return self;
        }
        let index = u32::try_from(member % self.parts()).unwrap_or(0);
        Self { base: self.base | (index << (32 - DEVICE_PREFIX)), prefix: DEVICE_PREFIX }
    }

    /// The part of the same size in which an address is.
    #[must_use]
    pub fn around(self, address: Ipv4Addr) -> Self {
        Self { base: u32::from(address) & mask(self.prefix), prefix: self.prefix }
    }

    /// How many devices have a part of their own.
    pub fn parts(self) -> u64 {
        1 << DEVICE_PREFIX.saturating_sub(self.prefix)
    }

    /// The device's own address on the network of its pods: the first.
    pub fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from(self.base + 1)
    }

    /// Its first address, which nobody has.
    pub fn base(self) -> Ipv4Addr {
        Ipv4Addr::from(self.base)
    }

    /// Bits of the network.
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// The bits of the network, as an address.
    pub fn mask(self) -> Ipv4Addr {
        Ipv4Addr::from(mask(self.prefix))
    }

    /// Whether an address is in it.
    pub fn holds(self, address: Ipv4Addr) -> bool {
        u32::from(address) & mask(self.prefix) == self.base
    }

    /// The next free address for a pod after one that was given away last, so that an address rests
    /// before another pod has it. `None` when all are taken.
    pub fn next_free(self, after: Option<Ipv4Addr>, taken: impl Fn(Ipv4Addr) -> bool) -> Option<Ipv4Addr> {
        let first = self.base + 2;
        let last = (self.base | !mask(self.prefix)) - 1;
        let begin = after.map_or(first, |after| u32::from(after).saturating_add(1));
        let begin = if (first..=last).contains(&begin) { begin } else { first };
        let mut all = (begin..=last).chain(first..begin).map(Ipv4Addr::from);
        all.find(|address| !taken(*address))
    }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX << (32 - u32::from(prefix))
}

impl FromStr for Range {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            |why: &str| format!("{text:?} {why}, but must be a range of IPv4 addresses such as \"10.42.0.0/16\"");
        let (address, prefix) = text.split_once('/').ok_or_else(|| wrong("has no length"))?;
        let address: Ipv4Addr = address.parse().map_err(|_| wrong("does not begin with an address"))?;
        let prefix: u8 = prefix.parse().map_err(|_| wrong("has no length"))?;
        if !PREFIXES.contains(&prefix) {
            return Err(wrong(&format!("is not from /{} to /{}", PREFIXES.start(), PREFIXES.end())));
        }
        let base = u32::from(address) & mask(prefix);
        if base != u32::from(address) {
            return Err(wrong(&format!("has bits after its length (did you mean {}/{prefix}?)", Ipv4Addr::from(base))));
        }
        if address.is_loopback() || address.is_multicast() || address.is_unspecified() {
            return Err(wrong("can not be given to pods"));
        }
        Ok(Self { base, prefix })
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base(), self.prefix)
    }
}

impl Serialize for Range {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Range {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn range(text: &str) -> Range {
        text.parse().unwrap()
    }

    #[test]
    fn each_device_has_its_part() {
        let whole = range("10.42.0.0/16");
        assert_eq!(whole.of_device(1).to_string(), "10.42.1.0/24");
        assert_eq!(whole.of_device(255).to_string(), "10.42.255.0/24");
        assert_eq!(whole.of_device(257), whole.of_device(1), "there are 256 parts");
        assert_eq!(range("10.0.0.0/8").of_device(257).to_string(), "10.1.1.0/24");
        let small = range("192.168.7.0/26");
        assert_eq!((small.of_device(9), small.parts()), (small, 1));
        assert_eq!(whole.of_device(1).gateway(), Ipv4Addr::new(10, 42, 1, 1));
        assert!(whole.of_device(1).holds(Ipv4Addr::new(10, 42, 1, 9)));
        assert!(!whole.of_device(1).holds(Ipv4Addr::new(10, 42, 2, 9)));
    }

    #[test]
    fn addresses_go_round_until_all_are_taken() {
        let range = range("10.42.1.0/29");
        let mut taken = BTreeSet::new();
        let mut last = None;
        while let Some(next) = range.next_free(last, |address| taken.contains(&address)) {
            assert!(taken.insert(next));
            last = Some(next);
        }
        let all: Vec<u8> = taken.iter().map(|address| address.octets()[3]).collect();
        assert_eq!(all, [2, 3, 4, 5, 6]);
        let third = Ipv4Addr::new(10, 42, 1, 4);
        assert!(taken.remove(&third) && taken.remove(&Ipv4Addr::new(10, 42, 1, 6)));
        let next = range.next_free(Some(third), |address| taken.contains(&address));
        assert_eq!(next, Some(Ipv4Addr::new(10, 42, 1, 6)), "the one just given back rests");
        assert_eq!(range.next_free(Some(Ipv4Addr::new(9, 9, 9, 9)), |_| false), Some(Ipv4Addr::new(10, 42, 1, 2)));
    }

    #[test]
    fn what_is_no_range_is_refused_with_a_reason() {
        for (text, why) in [
            ("10.42.0.0", "has no length"),
            ("pods/16", "does not begin with an address"),
            ("10.42.0.1/16", "did you mean 10.42.0.0/16?"),
            ("10.42.0.0/31", "is not from /8 to /29"),
            ("127.0.0.0/8", "can not be given to pods"),
        ] {
            let error = text.parse::<Range>().unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
