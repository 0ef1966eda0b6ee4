//! From what happened to the consistency that a point may claim.

use relevo_wire::manifest::Consistency;

/// What is known of one disk when it was read.
#[derive(Clone, Debug)]
pub struct Evidence {
    /// The disk's name.
    pub disk: String,
    /// Nothing wrote to it since it was opened, and nothing could.
    pub offline: bool,
    /// Nothing wrote to it since it was opened, though somebody could have.
    pub unwritten: bool,
    /// Whether its image is of the instant; why not.
    pub instant: Result<(), String>,
    /// Whether a file system of it was mounted for writing.
    pub mounted: bool,
}

impl Evidence {
    /// What holds of this disk. `frozen`: the file systems of all disks were at the instant.
    fn level(&self, frozen: bool) -> (Consistency, Option<String>) {
        let of_instant = match self.mounted && frozen {
            true => Consistency::FileSystem,
            false => Consistency::Crash,
        };
        match &self.instant {
            _ if self.offline => (Consistency::Offline, None),
            Ok(()) => (of_instant, None),
            Err(_) if self.unwritten => (Consistency::Crash, None),
            Err(why) => (Consistency::Fuzzy, Some(format!("{}: {why}", self.disk))),
        }
    }
}

/// What holds of all disks together, and why it is no better.
///
/// `not_frozen` says why file systems were not frozen; `not_ready` why applications were not made
/// ready.
pub fn level(
    disks: &[Evidence],
    not_frozen: &[String],
    not_ready: &[String],
) -> (Consistency, Vec<String>) {
    let (mut level, mut reasons) = (Consistency::Offline, Vec::new());
    for disk in disks {
        let (one, why) = disk.level(not_frozen.is_empty());
        level = level.and(one);
        reasons.extend(why);
        if one == Consistency::Crash && !disk.mounted {
            reasons.push(format!("{}: no file system of it is mounted", disk.disk));
        }
    }
    if disks.iter().any(|disk| disk.mounted && !disk.offline) {
        reasons.extend_from_slice(not_frozen);
    }
    match level {
        Consistency::FileSystem if not_ready.is_empty() => level = Consistency::Application,
        Consistency::FileSystem => reasons.extend_from_slice(not_ready),
        _ => {}
    }
    (level, reasons)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk() -> Evidence {
        Evidence {
            disk: "sda".into(),
            offline: false,
            unwritten: false,
            instant: Ok(()),
            mounted: true,
        }
    }

    /// Guards against a point that claims more than was proved.
    #[test]
    fn each_level_is_claimed_only_with_all_that_it_means() {
        let why = || vec!["because".to_string()];
        let fuzzy = Evidence {
            instant: Err("it never was still".into()),
            ..disk()
        };
        let raw = Evidence {
            mounted: false,
            ..disk()
        };
        let offline = Evidence {
            offline: true,
            ..fuzzy.clone()
        };
        let unwritten = Evidence {
            unwritten: true,
            ..fuzzy.clone()
        };
        for (disks, frozen, ready, expected, reasons) in [
            (vec![disk()], vec![], vec![], Consistency::Application, 0),
            (vec![disk()], vec![], why(), Consistency::FileSystem, 1),
            (vec![disk()], why(), vec![], Consistency::Crash, 1),
            (
                vec![disk(), offline.clone()],
                vec![],
                vec![],
                Consistency::Application,
                0,
            ),
            (
                vec![disk(), raw.clone()],
                vec![],
                vec![],
                Consistency::Crash,
                1,
            ),
            (vec![disk(), fuzzy], vec![], vec![], Consistency::Fuzzy, 1),
            (vec![unwritten], why(), why(), Consistency::Crash, 1),
            (vec![offline], why(), why(), Consistency::Offline, 0),
        ] {
            let (level, said) = level(&disks, &frozen, &ready);
            assert_eq!(
                (level, said.len()),
                (expected, reasons),
                "{disks:?}: {said:?}"
            );
        }
    }
}
