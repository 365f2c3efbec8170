//! Kubernetes quantities (`250m`, `64Mi`, `1.5e3`), exact: held in billionths, as far as Kubernetes
//! itself goes. What is finer than a billionth is rounded up, as there.

use std::fmt;
use std::str::FromStr;

/// An amount, in billionths of its unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Quantity(i128);

/// The text is not a quantity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$', and {text:?} does not"
)]
pub struct NotAQuantity {
    /// What was found.
    pub text: String,
}

const BILLION: i128 = 1_000_000_000;
/// Longer numbers are nonsense: the largest in billionths has as many.
const DIGITS_LIMIT: usize = 29;
/// In billionths: past any machine.
const LARGEST: i128 = (1 << 64) * BILLION;

impl Quantity {
    /// So many thousandths.
    pub fn from_millis(millis: u64) -> Self {
        Self(i128::from(millis) * 1_000_000)
    }

    /// So many whole units.
    pub fn from_units(units: u64) -> Self {
        Self(i128::from(units) * BILLION)
    }

    /// In thousandths, rounded up: millicores of a CPU quantity. Negative amounts are zero.
    pub fn millis(self) -> u64 {
        clamp(ceiling(self.0, 1_000_000))
    }

    /// In whole units, rounded up: bytes of a memory quantity. Negative amounts are zero.
    pub fn units(self) -> u64 {
        clamp(ceiling(self.0, BILLION))
    }

    /// Whether it is below zero.
    pub fn is_negative(self) -> bool {
        self.0 < 0
    }
}

fn ceiling(value: i128, unit: i128) -> i128 {
    value.div_euclid(unit) + i128::from(value.rem_euclid(unit) != 0)
}

fn clamp(value: i128) -> u64 {
    u64::try_from(value.max(0)).unwrap_or(u64::MAX)
}

impl FromStr for Quantity {
    type Err = NotAQuantity;

    fn from_str(text: &str) -> Result<Self, NotAQuantity> {
        parse(text).map(Self).ok_or_else(|| NotAQuantity { text: text.to_owned() })
    }
}

fn parse(text: &str) -> Option<i128> {
    let (sign, rest) = match text.as_bytes().first()? {
        b'-' => (-1, &text[1..]),
        b'+' => (1, &text[1..]),
        _ => (1, text),
    };
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
    let (number, suffix) = rest.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = whole.len() + fraction.len();
    if digits == 0 || digits > DIGITS_LIMIT || fraction.contains('.') {
        return None;
    }
    let mantissa: i128 = format!("{whole}{fraction}").parse().ok()?;
    let scale = u32::try_from(fraction.len()).ok()?;
    let (numerator, denominator) = multiplier(suffix)?;
    // Shortened first: whatever a quantity prints must fit on its way back.
    let shared = gcd(BILLION, denominator);
    let top = mantissa.checked_mul(numerator.checked_mul(BILLION / shared)?)?;
    let bottom = (denominator / shared).checked_mul(10i128.checked_pow(scale)?)?;
    let value = ceiling(top, bottom);
    (value <= LARGEST).then_some(sign * value)
}

fn gcd(a: i128, b: i128) -> i128 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// What a suffix multiplies by, as a fraction.
fn multiplier(suffix: &str) -> Option<(i128, i128)> {
    let binary = |power: u32| Some((1i128 << (10 * power), 1));
    let decimal = |power: u32| Some((10i128.pow(power), 1));
    match suffix {
        "" => Some((1, 1)),
        "n" => Some((1, BILLION)),
        "u" => Some((1, 1_000_000)),
        "m" => Some((1, 1_000)),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        exponent => {
            let power: i32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            match power {
                0..=18 => decimal(power.unsigned_abs()),
                -18..=-1 => Some((1, 10i128.pow(power.unsigned_abs()))),
                _ => None,
            }
        }
    }
}

/// The shortest exact form: `2`, `250m`, `64Mi`.
impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 % BILLION != 0 {
            for (unit, suffix) in [(1_000_000, "m"), (1_000, "u"), (1, "n")] {
                if self.0 % unit == 0 {
                    return write!(f, "{}{suffix}", self.0 / unit);
                }
            }
        }
        let units = self.0 / BILLION;
        for (power, suffix) in [(60, "Ei"), (50, "Pi"), (40, "Ti"), (30, "Gi"), (20, "Mi"), (10, "Ki")] {
            if units != 0 && units % (1i128 << power) == 0 {
                return write!(f, "{}{suffix}", units >> power);
            }
        }
        write!(f, "{units}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quantity(text: &str) -> Quantity {
        text.parse().unwrap()
    }

    #[test]
    fn amounts_are_exact() {
        assert_eq!(quantity("250m").millis(), 250);
        assert_eq!(quantity("1.5").millis(), 1500);
        assert_eq!(quantity("0.1").millis(), 100);
        assert_eq!(quantity("64Mi").units(), 64 << 20);
        assert_eq!(quantity("1.5Gi").units(), 3 << 29);
        assert_eq!(quantity("128974848").units(), 128_974_848);
        assert_eq!(quantity("129e6").units(), 129_000_000);
        assert_eq!(quantity("8Ei").units(), 8 << 60);
        assert_eq!(quantity("1M").units(), 1_000_000);
        assert_eq!(quantity("100u").millis(), 1, "rounds up");
        assert_eq!(quantity("-1").units(), 0);
        assert!(quantity("-1").is_negative());
    }

    #[test]
    fn nonsense_is_refused_without_overflow() {
        for text in ["", "m", "1 Mi", "1mi", "1.2.3", "ten", "1e", "1e99", "--1", "999999999999999999999", "1Zi", "."] {
            assert!(text.parse::<Quantity>().is_err(), "{text}");
        }
        assert!("999999999999999999E".parse::<Quantity>().is_err(), "past any machine");
    }

    #[test]
    fn prints_what_it_reads() {
        for text in ["250m", "2", "64Mi", "100n", "3u", "1Gi", "1500m", "0"] {
            assert_eq!(quantity(text).to_string(), text);
        }
    }
}
