//! Durations as people write them in a plan: `30s`, `15m`, `1h 30m`, `2d`.

use std::time::Duration;

use jiff::{Span, SpanRelativeTo};
use serde::{Deserialize, Deserializer};

/// Reads a duration. A day has 24 hours; months and years, whose lengths vary, are refused.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let refuse =
        || format!("\"{text}\" is not a duration: write \"30s\", \"15m\", \"1h 30m\" or \"2d\"");
    let span: Span = text.parse().map_err(|_| refuse())?;
    let signed = span
        .to_duration(SpanRelativeTo::days_are_24_hours())
        .map_err(|_| refuse())?;
    let duration = Duration::try_from(signed).map_err(|_| refuse())?;
    if duration.is_zero() {
        return Err(format!(
            "\"{text}\" is no time at all: write a duration above zero"
        ));
    }
    Ok(duration)
}

/// A duration for people: `850 ms`, `12.4 s`, `3 min 5 s`, `2 h 10 min`, `3 d 4 h`.
pub fn in_words(duration: Duration) -> String {
    let millis = duration.as_millis();
    let seconds = duration.as_secs();
    let two = |big: u64, big_unit: &str, small: u64, small_unit: &str| match small {
        0 => format!("{big} {big_unit}"),
        _ => format!("{big} {big_unit} {small} {small_unit}"),
    };
    match seconds {
        0 => format!("{millis} ms"),
        // Tenths are cut off, not rounded, so that 59.96 s does not become "60.0 s".
        1..60 => format!("{seconds}.{} s", duration.subsec_millis() / 100),
        60..3600 => two(seconds / 60, "min", seconds % 60, "s"),
        3600..86_400 => two(seconds / 3600, "h", seconds % 3600 / 60, "min"),
        _ => two(seconds / 86_400, "d", seconds % 86_400 / 3600, "h"),
    }
}

/// A duration in a plan file.
#[derive(Debug, Clone, Copy)]
pub(super) struct PlanDuration(pub(super) Duration);

impl<'de> Deserialize<'de> for PlanDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse_duration(&text)
            .map(Self)
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn reads_what_people_write() {
        let seconds = |text| parse_duration(text).unwrap().as_secs();
        assert_eq!(seconds("30s"), 30);
        assert_eq!(seconds("15m"), 900);
        assert_eq!(seconds("1h 30m"), 5400);
        assert_eq!(seconds("2d"), 172_800);
        for wrong in ["", "15", "15 parsecs", "-5m", "0s", "1mo"] {
            let refusal = parse_duration(wrong).unwrap_err();
            assert!(
                refusal.contains(wrong) && refusal.contains("write"),
                "{refusal}"
            );
        }
    }

    #[test]
    fn two_units_at_most() {
        let words = |millis| in_words(Duration::from_millis(millis));
        assert_eq!(words(0), "0 ms");
        assert_eq!(words(850), "850 ms");
        assert_eq!(words(12_499), "12.4 s");
        assert_eq!(words(59_999), "59.9 s");
        assert_eq!(words(60_000), "1 min");
        assert_eq!(words(185_000), "3 min 5 s");
        assert_eq!(words(7_800_000), "2 h 10 min");
        assert_eq!(words(273_600_000), "3 d 4 h");
    }
}
