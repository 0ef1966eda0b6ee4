//! What may befall a world.

use std::num::NonZeroU8;

use relevo_vault::settings::Parity;
use relevo_vault::volume::simulated::Dice;

use crate::network::Weather;

/// What may befall a world.
#[derive(Clone, Copy, Debug)]
pub struct Fates {
    /// The lines.
    pub weather: Weather,
    /// The vault dies now and then.
    pub falls: bool,
    /// Its disk is full or fails now and then.
    pub failures: bool,
    /// Bytes of packs change.
    pub rot: bool,
    /// Somebody with a valid certificate lies.
    pub hostile: bool,
    /// Points are locked from their commit on.
    pub locked_days: u64,
    /// Packs have parity.
    pub parity: Option<Parity>,
    /// What is damaged is looked for, and healed.
    pub heals: bool,
}

impl Fates {
    /// Those of a seed.
    pub fn of(seed: u64, dice: &mut Dice) -> Self {
        let mut fates = Self {
            weather: match dice.roll(4) {
                0 => Weather::Calm,
                1 | 2 => Weather::Bad(25),
                _ => Weather::Bad(7),
            },
            falls: !dice.once_in(6),
            failures: dice.once_in(3),
            rot: dice.once_in(8),
            hostile: dice.once_in(3),
            locked_days: u64::from(dice.once_in(5)),
            parity: None,
            heals: false,
        };
        // Other dice: so worlds without parity and healing stayed what they were before there
        // was any.
        let mut dice = Dice::new(seed ^ 0x4ef1);
        for _ in 0..8 {
            dice.roll(2);
        }
        if dice.once_in(3) {
            fates.parity = Some(Parity {
                data: small(1 + dice.roll(4)),
                parity: small(1 + dice.roll(2)),
            });
        }
        fates.heals = match fates.rot {
            true => fates.parity.is_some() || dice.once_in(2),
            false => fates.parity.is_some() && !dice.once_in(3),
        };
        fates
    }

    /// Bytes of packs change, and never more of them than parity heals.
    pub fn rots_within_parity(&self) -> bool {
        self.parity.is_some() && self.heals && !self.rot
    }
}

fn small(number: u64) -> NonZeroU8 {
    NonZeroU8::MIN.saturating_add(number as u8 - 1)
}
