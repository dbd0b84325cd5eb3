//! The price a mock puts into `usage.cost`: sent as it was written, booked in nano-dollars.

use std::fmt;

/// A decimal number of US dollars, at most nine decimals of which are booked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cost {
    text: String,
    nanodollars: u64,
}

impl Cost {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(whole) || !digits(decimals) {
            return None;
        }
        let nanos: String = decimals.chars().chain("000000000".chars()).take(9).collect();
        let dollars: u64 = whole.parse().ok()?;
        let nanodollars = dollars.checked_mul(1_000_000_000)?.checked_add(nanos.parse().ok()?)?;
        Some(Self { text: text.to_owned(), nanodollars })
    }

    pub(crate) const fn nanodollars(&self) -> u64 {
        self.nanodollars
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::Cost;

    #[test]
    fn decimals_become_nanodollars_exactly() {
        let nanos = |text| Cost::parse(text).map(|cost| cost.nanodollars());
        assert_eq!(nanos("0.00012"), Some(120_000));
        assert_eq!(nanos("1"), Some(1_000_000_000));
        assert_eq!(nanos("2.5000000019"), Some(2_500_000_001));
        assert_eq!((nanos(""), nanos("-1"), nanos("1e-5"), nanos("1.")), (None, None, None, None));
    }
}
