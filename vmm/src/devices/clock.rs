//! The battery-backed clock (MC146818), for kernels that do not use KVM's clock.
//!
//! Only the time can be read, in 24-hour form, UTC, and as binary-coded decimals: Linux on
//! x86 takes them for such whatever the clock says. Writes of the time and alarms have no
//! effect: the host's clock is the truth.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::bus::BusDevice;

/// The index port; the data port follows it.
pub const INDEX: u16 = 0x70;
/// Index and data.
pub const PORTS: u64 = 2;

/// Register B: 24-hour form, binary-coded decimals.
const BCD_24H: u8 = 0b0000_0010;
/// Register D: time and memory are valid.
const VALID: u8 = 0x80;

/// A date and time of the Gregorian calendar, UTC.
#[derive(Debug, PartialEq, Eq)]
struct Calendar {
    year: u64,
    month: u8,
    day: u8,
    weekday: u8,
    hour: u8,
    minute: u8,
    second: u8,
}

impl Calendar {
    /// From seconds since 1970-01-01T00:00:00Z.
    fn from_unix(seconds: u64) -> Self {
        let (days, rest) = (seconds / 86_400, seconds % 86_400);
        // Years are counted from March, so that the leap day is a year's last; eras of 400
        // years, which all have the same length, from 0000-03-01.
        let from_era = days + 719_468;
        let (era, day_of_era) = (from_era / 146_097, from_era % 146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let from_march = (5 * day_of_year + 2) / 153;
        let month = if from_march < 10 {
            from_march + 3
        } else {
            from_march - 9
        };
        Self {
            year: era * 400 + year_of_era + u64::from(month <= 2),
            month: month as u8,
            day: (day_of_year - (153 * from_march + 2) / 5 + 1) as u8,
            // 1970-01-01 was a Thursday; the clock counts from Sunday = 1.
            weekday: ((days + 4) % 7 + 1) as u8,
            hour: (rest / 3600) as u8,
            minute: (rest / 60 % 60) as u8,
            second: (rest % 60) as u8,
        }
    }
}

fn bcd(value: u8) -> u8 {
    ((value / 10) << 4) + value % 10
}

/// The clock.
#[derive(Default)]
pub struct Clock {
    index: u8,
}

impl Clock {
    fn register(&self, seconds: u64) -> u8 {
        let now = Calendar::from_unix(seconds);
        match self.index {
            0x00 => bcd(now.second),
            0x02 => bcd(now.minute),
            0x04 => bcd(now.hour),
            0x06 => bcd(now.weekday),
            0x07 => bcd(now.day),
            0x08 => bcd(now.month),
            0x09 => bcd((now.year % 100) as u8),
            0x32 => bcd((now.year / 100) as u8),
            0x0b => BCD_24H,
            0x0d => VALID,
            _ => 0,
        }
    }
}

impl BusDevice for Clock {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        if let ([byte], 1) = (data, offset) {
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            *byte = self.register(now.map_or(0, |d| d.as_secs()));
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let ([byte], 0) = (data, offset) {
            // The top bit masks non-maskable interrupts and is no part of the index.
            self.index = byte & 0x7f;
        }
    }
}

#[cfg(test)]
mod tests {
    //! Guards the calendar, around its leap days.
    use super::*;

    fn date(seconds: u64) -> (u64, u8, u8, u8) {
        let c = Calendar::from_unix(seconds);
        (c.year, c.month, c.day, c.weekday)
    }

    #[test]
    fn known_days() {
        assert_eq!(date(0), (1970, 1, 1, 5));
        assert_eq!(date(951_782_400), (2000, 2, 29, 3));
        assert_eq!(date(951_868_800), (2000, 3, 1, 4));
        assert_eq!(date(1_709_251_199), (2024, 2, 29, 5));
        assert_eq!(date(4_107_542_400), (2100, 3, 1, 2));
    }

    #[test]
    fn registers_hold_the_parts_of_the_time() {
        let seconds = 1_000_000_000; // 2001-09-09T01:46:40Z
        let read = |index| Clock { index }.register(seconds);
        let parts = [0x32, 9, 8, 7, 4, 2, 0].map(read);
        assert_eq!(parts, [0x20, 0x01, 0x09, 0x09, 0x01, 0x46, 0x40]);
    }
}
