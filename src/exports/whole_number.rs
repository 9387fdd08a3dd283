//! JSON number or digit string → whole number, exactly.

/// Reads `12`, `12.0`, `1.2e1` or `"12"` as a whole number, from its decimal text: an `f64` is exact only up to 2^53.
pub(super) fn whole_number(raw: &str) -> Option<i64> {
    if let Some(text) = raw.strip_prefix('"') {
        let digits = text.strip_suffix('"')?;
        let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        return plain.then(|| digits.parse().ok())?;
    }
    if let Ok(number) = raw.parse() {
        return Some(number);
    }
    let (sign, unsigned) = match raw.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", raw),
    };
    let (mantissa, exponent) = unsigned.split_once(['e', 'E']).unwrap_or((unsigned, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if whole.is_empty() || !whole.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let digits = format!("{whole}{fraction}");
    let significant = digits.trim_start_matches('0').trim_end_matches('0');
    if significant.is_empty() {
        return Some(0);
    }
    // The value is significant × 10^zeros. An exponent beyond i64 is beyond 64 bits of value, too.
    let trailing = digits.len() - digits.trim_end_matches('0').len();
    let exponent: i64 = exponent.parse().ok()?;
    let shift = i64::try_from(trailing).ok()?.checked_sub(i64::try_from(fraction.len()).ok()?)?;
    let zeros = usize::try_from(exponent.checked_add(shift)?).ok()?;
    const DIGITS: usize = 19; // of i64::MAX
    if zeros > DIGITS || significant.len() > DIGITS {
        return None;
    }
    format!("{sign}{significant}{}", "0".repeat(zeros)).parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn whole_numbers() {
        let good = [
            ("0", 0),
            ("-0", 0),
            ("12", 12),
            ("-7", -7),
            ("12.0", 12),
            ("12.000", 12),
            ("-0.0", 0),
            ("0e999999999999999999999999", 0),
            ("1e3", 1_000),
            ("1E+3", 1_000),
            ("1.5e1", 15),
            ("1200e-2", 12),
            ("0.12e2", 12),
            ("9007199254740993.0", 9_007_199_254_740_993),
            ("9007199254740993", 9_007_199_254_740_993),
            ("9223372036854775807", i64::MAX),
            ("9223372036854775807.0", i64::MAX),
            ("922337203685477580.7e1", i64::MAX),
            ("-9223372036854775808", i64::MIN),
            ("-9223372036854775808.0", i64::MIN),
            ("1e18", 1_000_000_000_000_000_000),
            (r#""12""#, 12),
            (r#""0012""#, 12),
            (r#""9223372036854775807""#, i64::MAX),
        ];
        for (raw, expected) in good {
            assert_eq!(whole_number(raw), Some(expected), "{raw}");
        }
        let bad = [
            "12.5",
            "1e-1",
            "0.1",
            "9223372036854775808",
            "9223372036854775808.0",
            "-9223372036854775809",
            "1e19",
            "1e999999999999999999999999",
            "1e-999999999999999999999999",
            "18446744073709551615",
            "true",
            "false",
            "null",
            "[1]",
            "{}",
            r#""""#,
            r#"" 12""#,
            r#""+12""#,
            r#""-12""#,
            r#""12.0""#,
            r#""1_2""#,
            r#""1e3""#,
            r#""0x1f""#,
            r#""\u0031""#,
            r#""9223372036854775808""#,
            "\"\u{0661}\"",
        ];
        for raw in bad {
            assert_eq!(whole_number(raw), None, "{raw}");
        }
    }

    proptest! {
        /// Wherever an `f64` is exact, the decimal text says the same.
        #[test]
        fn whole_floats_agree_with_f64(whole in -(1i64 << 53)..(1i64 << 53), zeros in 0usize..5) {
            let text = format!("{whole}.{}0", "0".repeat(zeros));
            prop_assert_eq!(whole_number(&text), Some(whole));
            let scientific = format!("{:e}", whole as f64);
            prop_assert_eq!(whole_number(&scientific), Some(whole));
        }

        #[test]
        fn any_text_has_an_answer(text in "-?[0-9]{0,25}\\.?[0-9]{0,5}([eE][+-]?[0-9]{0,30})?", other in ".{0,12}") {
            let _ = whole_number(&text);
            let _ = whole_number(&other);
        }
    }
}
