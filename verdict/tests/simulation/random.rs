//! Chance, from a seed.

/// `SplitMix64`: short, and more than random enough for a simulation.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// Above 0 and below 1.
    pub(crate) fn unit(&mut self) -> f64 {
        as_unit(self.bits())
    }

    pub(crate) fn happens(&mut self, chance: f64) -> bool {
        self.unit() < chance
    }

    /// The time to the next event of `rate` per second.
    pub(crate) fn gap(&mut self, rate: f64) -> f64 {
        -self.unit().ln() / rate
    }

    /// How many flips fail before the first that succeeds.
    #[expect(
        clippy::as_conversions,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a whole number that is not negative; a cast saturates"
    )]
    pub(crate) fn failures_before_success(&mut self, chance: f64) -> u64 {
        (self.unit().ln() / (-chance).ln_1p()) as u64
    }
}

/// A hash as a position above 0 and below 1.
#[expect(
    clippy::as_conversions,
    clippy::cast_precision_loss,
    reason = "53 bits are exact"
)]
pub(crate) fn as_unit(bits: u64) -> f64 {
    ((bits >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
}
