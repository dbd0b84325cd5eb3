//! How much: requests, tokens, money.

use std::ops::{Add, AddAssign, Neg, Sub, SubAssign};

use serde::{Deserialize, Serialize};

/// Money in billionths of a US dollar. `i64` holds 9.2 billion dollars.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Nanodollars(pub i64);

impl Nanodollars {
    /// The most that one request can cost, 10,000 USD: more than any answer does, and 900,000 times as much still fits
    /// into a sum.
    pub const DEAREST_REQUEST: Self = Self(10_000_000_000_000);

    /// Reads a decimal number of dollars, as configuration, the command line and providers write it.
    ///
    /// Exact for up to nine decimals; what is finer is rounded up. `None` for a sign, no digit, an exponent that isn't
    /// a small number, or more than fits.
    #[must_use]
    pub fn from_decimal(dollars: &str) -> Option<Self> {
        let (mantissa, exponent) = match dollars.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
            None => (dollars, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let digits = || whole.bytes().chain(fraction.bytes());
        if digits().next().is_none() || !digits().all(|b| b.is_ascii_digit()) || !(-400..=9).contains(&exponent) {
            return None;
        }
        // The number is `digits` × 10^(exponent − fraction.len()) dollars; move its point nine places on.
        let places = 9 + exponent - i32::try_from(fraction.len()).ok()?;
        let mut nanos: i128 = 0;
        let mut inexact = false;
        let keep = digits().count().checked_add_signed(isize::try_from(places.min(0)).ok()?).unwrap_or(0);
        for (position, digit) in digits().enumerate() {
            if position < keep {
                nanos = nanos.checked_mul(10)?.checked_add(i128::from(digit - b'0'))?;
            } else {
                inexact |= digit != b'0';
            }
        }
        for _ in 0..places.max(0) {
            nanos = nanos.checked_mul(10)?;
        }
        i64::try_from(nanos + i128::from(inexact)).ok().map(Self)
    }
}

/// Tokens of one request as a provider reports them or as we estimate them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Tokens of the prompt, below 2^31.
    pub prompt_tokens: u32,
    /// Tokens of the completion, below 2^31.
    pub completion_tokens: u32,
    /// What the provider says it charges (OpenRouter's `usage.cost`).
    pub cost: Option<Nanodollars>,
}

/// A model's price, in nano-dollars for a million tokens: 0.15 USD/Mtok is 150,000,000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Price {
    /// For a million prompt tokens.
    pub input: Nanodollars,
    /// For a million completion tokens.
    pub output: Nanodollars,
}

impl Price {
    /// Returns what these tokens cost, rounded up to a whole nano-dollar; at most
    /// [`DEAREST_REQUEST`](Nanodollars::DEAREST_REQUEST), which only a mistyped price exceeds.
    #[must_use]
    pub fn of(self, prompt_tokens: i64, completion_tokens: i64) -> Nanodollars {
        let part = |tokens: i64, price: Nanodollars| i128::from(tokens) * i128::from(price.0);
        let total = part(prompt_tokens, self.input) + part(completion_tokens, self.output);
        let rounded = (total + 999_999).div_euclid(1_000_000);
        i64::try_from(rounded).map_or(Nanodollars::DEAREST_REQUEST, Nanodollars).min(Nanodollars::DEAREST_REQUEST)
    }
}

/// What was used, promised or allowed: the figures that are counted for each account.
///
/// Signed, since a correction is a posting like any other, with negative figures. Sums saturate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, Serialize, Deserialize)]
pub struct Amounts {
    /// Requests.
    pub requests: i64,
    /// Tokens of prompts.
    pub prompt_tokens: i64,
    /// Tokens of completions.
    pub completion_tokens: i64,
    /// Cost.
    pub cost: Nanodollars,
}

impl Amounts {
    /// Nothing.
    pub const ZERO: Self = Self { requests: 0, prompt_tokens: 0, completion_tokens: 0, cost: Nanodollars(0) };

    /// Returns prompt + completion tokens: the figure that token limits are about.
    #[must_use]
    pub fn tokens(&self) -> i64 {
        self.prompt_tokens.saturating_add(self.completion_tokens)
    }

    fn zip(self, other: Self, op: fn(i64, i64) -> i64) -> Self {
        Self {
            requests: op(self.requests, other.requests),
            prompt_tokens: op(self.prompt_tokens, other.prompt_tokens),
            completion_tokens: op(self.completion_tokens, other.completion_tokens),
            cost: Nanodollars(op(self.cost.0, other.cost.0)),
        }
    }
}

impl Add for Amounts {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        self.zip(other, i64::saturating_add)
    }
}

impl Sub for Amounts {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        self.zip(other, i64::saturating_sub)
    }
}

impl Neg for Amounts {
    type Output = Self;
    fn neg(self) -> Self {
        Self::ZERO - self
    }
}

impl AddAssign for Amounts {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl SubAssign for Amounts {
    fn sub_assign(&mut self, other: Self) {
        *self = *self - other;
    }
}

/// A part of a limit: what is lent to an instance, promised to a request or returned. Sums saturate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, Serialize)]
pub struct Portion {
    /// Requests.
    pub requests: i64,
    /// Tokens, prompt and completion together.
    pub tokens: i64,
    /// Cost.
    pub cost: Nanodollars,
}

impl Portion {
    /// Nothing.
    pub const ZERO: Self = Self { requests: 0, tokens: 0, cost: Nanodollars(0) };

    /// Applies an operation to each of the three figures of both.
    #[must_use]
    pub fn zip(self, other: Self, op: fn(i64, i64) -> i64) -> Self {
        Self {
            requests: op(self.requests, other.requests),
            tokens: op(self.tokens, other.tokens),
            cost: Nanodollars(op(self.cost.0, other.cost.0)),
        }
    }

    /// Returns the smaller of each figure.
    #[must_use]
    pub fn min(self, other: Self) -> Self {
        self.zip(other, i64::min)
    }
}

impl From<Amounts> for Portion {
    fn from(amounts: Amounts) -> Self {
        Self { requests: amounts.requests, tokens: amounts.tokens(), cost: amounts.cost }
    }
}

impl Add for Portion {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        self.zip(other, i64::saturating_add)
    }
}

impl Sub for Portion {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        self.zip(other, i64::saturating_sub)
    }
}

impl AddAssign for Portion {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl SubAssign for Portion {
    fn sub_assign(&mut self, other: Self) {
        *self = *self - other;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dollars_are_read_exactly_and_rounded_up() {
        for (text, nanos) in [
            ("0", 0),
            ("1", 1_000_000_000),
            ("0.15", 150_000_000),
            (".5", 500_000_000),
            ("2.", 2_000_000_000),
            ("0.000000001", 1),
            ("0.0000000001", 1),
            ("0.0000000010", 1),
            ("1e-9", 1),
            ("1.5e-9", 2),
            ("9.5e-5", 95_000),
            ("1E2", 100_000_000_000),
            ("0e-300", 0),
            ("1e-300", 1),
            ("0.00000000000000000000000000000000000000000000000001", 1),
        ] {
            assert_eq!(Nanodollars::from_decimal(text), Some(Nanodollars(nanos)), "{text}");
        }
        for bad in ["", ".", "-1", "+1", "1,5", "NaN", "inf", "1e", "1e999", "99999999999", "0x1", " 1"] {
            assert_eq!(Nanodollars::from_decimal(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_price_is_rounded_up_to_a_whole_nanodollar() {
        let price = Price { input: Nanodollars(150_000_000), output: Nanodollars(600_000_000) };
        assert_eq!(price.of(1_000_000, 0), Nanodollars(150_000_000));
        assert_eq!(price.of(9, 20), Nanodollars(1_350 + 12_000));
        assert_eq!(Price { input: Nanodollars(1), output: Nanodollars(0) }.of(1, 0), Nanodollars(1));
        assert_eq!(price.of(i64::MAX, i64::MAX), Nanodollars::DEAREST_REQUEST);
        let mistyped = Price { input: Nanodollars(20_000_000_000_000), output: Nanodollars(0) };
        assert_eq!(mistyped.of(1_000_000, 0), Nanodollars::DEAREST_REQUEST);
    }

    #[test]
    fn amounts_add_up_and_saturate() {
        let one = Amounts { requests: 1, prompt_tokens: 2, completion_tokens: 3, cost: Nanodollars(4) };
        assert_eq!(one + one - one, one);
        assert_eq!(one - one, Amounts::ZERO);
        assert_eq!(one.tokens(), 5);
        let most = Amounts { requests: i64::MAX, ..Amounts::ZERO };
        assert_eq!((most + one).requests, i64::MAX);
    }
}
