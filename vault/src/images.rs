//! `relevo-vault images`: the recovery points, for the administrator.

use std::fmt::Write;

use relevo_wire::Timestamp;

use crate::catalogue::Image;
use crate::directory::Directory;
use crate::error::VaultError;

/// All recovery points of a vault, by server and time. Works beside a vault that serves.
pub fn list(directory: &Directory) -> Result<Vec<Image>, VaultError> {
    let beside = crate::rebuild::open_beside(directory)?;
    Ok(beside.catalogue.images()?)
}

/// As a table for people.
pub fn table(images: &[Image], now: Timestamp) -> String {
    if images.is_empty() {
        return "no recovery points yet: enrol an agent with a token and run 'relevo-agent backup'\n".into();
    }
    let head = [
        "SERVER", "POINT", "TAKEN", "AGE", "DISK", "SENT", "STORED", "VERIFIED",
    ];
    let mut rows = vec![head.map(String::from)];
    rows.extend(images.iter().map(|image| {
        [
            image.name.clone(),
            image.point.to_string(),
            image.taken.to_string(),
            age(now.since(image.taken).as_secs()),
            bytes(image.disk_bytes),
            bytes(image.sent_bytes),
            bytes(image.stored_bytes),
            image.verified.map_or("never".into(), |when| {
                format!("{} ago", age(now.since(when).as_secs()))
            }),
        ]
    }));
    let widths: Vec<usize> = (0..head.len())
        .map(|column| {
            rows.iter()
                .map(|row| row[column].chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let right = (4..=6).contains(&column);
            let _ = match right {
                true => write!(line, "{cell:>width$}  "),
                false => write!(line, "{cell:<width$}  "),
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Bytes for people, such as `4.2 GiB`.
pub fn bytes(count: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{count} B"),
        _ => format!("{value:.1} {}", units[unit]),
    }
}

pub(crate) fn age(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86400),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn amounts_are_shown_in_fitting_units() {
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(4 << 30), "4.0 GiB");
        assert_eq!(bytes(u64::MAX), "16384.0 PiB");
        assert_eq!(age(3600), "60 min");
        assert_eq!(age(10 * 86400), "10 d");
    }
}
