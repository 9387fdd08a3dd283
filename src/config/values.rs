//! A single value of the file: read from its text whatever its kind; and the kinds that are numbers.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use ipnet::IpNet;
use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};

use super::problem::Mistake;
use crate::limits;
use crate::routing::table::Share;

/// A value as it stands in the file: text, or a bare number or boolean where the kind allows it.
#[derive(Debug, Clone)]
pub(crate) struct Written<T>(pub(crate) T);

/// A kind of value.
pub(crate) trait Value: Sized {
    /// What is expected, with an example.
    const EXPECTED: &'static str;
    /// Whether it is a number or a boolean, so that it may stand without quotes.
    const BARE: bool = false;
    /// Whether no message may show it.
    const SECRET: bool = false;
    /// Reads the text.
    fn parse(text: &str) -> Result<Self, Mistake>;
}

impl<'de, T: Value> Deserialize<'de> for Written<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Written<T>, D::Error> {
        deserializer.deserialize_any(ValueVisitor(PhantomData))
    }
}

struct ValueVisitor<T>(PhantomData<T>);

impl<T: Value> ValueVisitor<T> {
    fn bare<E: Error>(self, text: &str) -> Result<Written<T>, E> {
        if T::BARE {
            return T::parse(text).map(Written).map_err(|mistake| E::custom(mistake.unquoted(text)));
        }
        let shown = if T::SECRET { "" } else { text };
        Err(E::custom(Mistake::new(format!("{shown} is not {}", T::EXPECTED).trim_start(), "")))
    }
}

impl<'de, T: Value> Visitor<'de> for ValueVisitor<T> {
    type Value = Written<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Written<T>, E> {
        T::parse(text).map(Written).map_err(E::custom)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Written<T>, E> {
        self.bare(&value.to_string())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Written<T>, E> {
        self.bare(&value.to_string())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Written<T>, E> {
        self.bare(&value.to_string())
    }

    fn visit_i128<E: Error>(self, value: i128) -> Result<Written<T>, E> {
        self.bare(&value.to_string())
    }

    fn visit_u128<E: Error>(self, value: u128) -> Result<Written<T>, E> {
        self.bare(&value.to_string())
    }

    /// The shortest decimal that reads back as this float is what was written, up to 15 digits: 0.29 stays "0.29".
    fn visit_f64<E: Error>(self, value: f64) -> Result<Written<T>, E> {
        self.bare(&value.to_string())
    }
}

impl Value for bool {
    const EXPECTED: &'static str = "true or false";
    const BARE: bool = true;

    fn parse(text: &str) -> Result<bool, Mistake> {
        match text {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err(Mistake::new(format!("{} is not true or false", shown(text)), "write true or false")),
        }
    }
}

impl Value for u32 {
    const EXPECTED: &'static str = "a whole number";
    const BARE: bool = true;

    fn parse(text: &str) -> Result<u32, Mistake> {
        let advice = format!("write a whole number between 0 and {}", u32::MAX);
        if !text.bytes().all(|byte| byte.is_ascii_digit()) || text.is_empty() {
            return Err(Mistake::new(format!("{} is not a whole number", shown(text)), advice));
        }
        text.parse().map_err(|_| Mistake::new(format!("{text} is too large"), advice))
    }
}

/// A share of outcomes: above 0 and up to 1.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fraction(pub(crate) f64);

impl Value for Fraction {
    const EXPECTED: &'static str = "a number above 0 and up to 1";
    const BARE: bool = true;

    fn parse(text: &str) -> Result<Fraction, Mistake> {
        match text.parse::<f64>() {
            Ok(value) if value > 0.0 && value <= 1.0 => Ok(Fraction(value)),
            _ => Err(Mistake::new(format!("{} is not above 0 and up to 1", shown(text)), "write 0.5 for one half")),
        }
    }
}

impl Value for Share {
    const EXPECTED: &'static str = "a percentage from 0 to 100";
    const BARE: bool = true;

    /// Works on the digits, so that 0.29 is 29 hundredths and nothing is rounded.
    fn parse(text: &str) -> Result<Share, Mistake> {
        let advice = "write a percentage of users with at most two decimals, such as 25 or 0.05";
        let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let unsigned = whole.strip_prefix('-').unwrap_or(whole);
        if !digits(unsigned) || !digits(decimals) {
            return Err(Mistake::new(format!("{} is not a percentage", shown(text)), advice));
        }
        let outside = || Mistake::new(format!("{text} is not between 0 and 100"), advice);
        let decimals = decimals.trim_end_matches('0');
        if unsigned.len() != whole.len() && (unsigned.bytes().any(|b| b != b'0') || !decimals.is_empty()) {
            return Err(outside());
        }
        let whole: u16 = unsigned.parse().map_err(|_| outside())?;
        if whole > 100 || (whole == 100 && !decimals.is_empty()) {
            return Err(outside());
        }
        if decimals.len() > 2 {
            return Err(Mistake::new(format!("{text} has more than two decimals"), advice));
        }
        let hundredths: u16 = format!("{decimals:0<2}").parse().map_err(|_| outside())?;
        Share::from_hundredths(whole * 100 + hundredths).ok_or_else(outside)
    }
}

impl Value for Duration {
    const EXPECTED: &'static str = "a duration such as \"30s\"";
    const BARE: bool = true;

    fn parse(text: &str) -> Result<Duration, Mistake> {
        let advice = "write a whole number and ms, s, m, h or d, such as \"250ms\" or \"30s\"";
        let (number, unit) = split_unit(text);
        let bad = || Mistake::new(format!("{} is not a duration", shown(text)), advice);
        let number: u64 = number.ok_or_else(bad)?;
        let factor: u64 = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            "" => return Err(Mistake::new(format!("{} has no unit", shown(text)), advice)),
            _ => return Err(bad()),
        };
        let millis = number.checked_mul(factor).filter(|millis| *millis <= limits::CONFIG_DAYS * 86_400_000);
        let advice = format!("write at most \"{}d\"", limits::CONFIG_DAYS);
        millis.map(Duration::from_millis).ok_or_else(|| Mistake::new(format!("{} is too long", shown(text)), advice))
    }
}

/// A number of bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size(pub(crate) u64);

impl Value for Size {
    const EXPECTED: &'static str = "a size such as \"1MiB\"";
    const BARE: bool = true;

    fn parse(text: &str) -> Result<Size, Mistake> {
        let advice = "write a whole number and B, KiB, MiB or GiB, such as \"32KiB\"";
        let (number, unit) = split_unit(text);
        let bad = || Mistake::new(format!("{} is not a size", shown(text)), advice);
        let number: u64 = number.ok_or_else(bad)?;
        let factor: u64 = match unit {
            "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            "" => return Err(Mistake::new(format!("{} has no unit", shown(text)), advice)),
            _ => return Err(bad()),
        };
        let bytes = number.checked_mul(factor).filter(|bytes| *bytes <= limits::CONFIG_SIZE);
        bytes
            .map(Size)
            .ok_or_else(|| Mistake::new(format!("{} is too large", shown(text)), "write at most \"1024GiB\""))
    }
}

/// Splits digits from what follows; `None` without digits or when they do not fit.
fn split_unit(text: &str) -> (Option<u64>, &str) {
    let end = text.bytes().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    (text[..end].parse().ok(), &text[end..])
}

/// Who may set the identity header.
#[derive(Debug)]
pub(crate) enum TrustedPeers {
    Any,
    Networks(Vec<Written<IpNet>>),
}

impl<'de> Deserialize<'de> for TrustedPeers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<TrustedPeers, D::Error> {
        deserializer.deserialize_any(TrustedVisitor)
    }
}

struct TrustedVisitor;

impl<'de> Visitor<'de> for TrustedVisitor {
    type Value = TrustedPeers;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"any\" or a list of networks such as [\"10.0.0.0/8\"]")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<TrustedPeers, E> {
        if text == "any" {
            return Ok(TrustedPeers::Any);
        }
        let advice = "write \"any\", or a list: [\"10.0.0.0/8\"]";
        Err(E::custom(Mistake::new(format!("{} is not \"any\" or a list of networks", shown(text)), advice)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<TrustedPeers, A::Error> {
        let mut networks = Vec::new();
        while let Some(network) = seq.next_element()? {
            networks.push(network);
        }
        Ok(TrustedPeers::Networks(networks))
    }
}

/// Quotes a text for a message: escaped, and cut when long.
pub(crate) fn shown(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((at, _)) => format!("{:?}…", &text[..at]),
        None => format!("{text:?}"),
    }
}
