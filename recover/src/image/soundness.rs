//! What a recovery point says of its own soundness, in words.

use relevo_wire::manifest::{Consistency, DiskImage, Gone, ManifestBody};

/// What its consistency means for whoever recovers from it.
pub fn consistency(body: &ManifestBody) -> String {
    let mut words = String::from(match body.consistency {
        Consistency::Offline => "offline: nothing wrote meanwhile",
        Consistency::Crash => "crash: as after a power cut at one moment",
        Consistency::FileSystem => "file-system: all file systems frozen at one moment",
        Consistency::Application => {
            "application: applications made ready and file systems frozen at one moment"
        }
        Consistency::Fuzzy => {
            "fuzzy: read while it was written, blocks of several moments: check file systems first"
        }
    });
    if let Some(held) = body.held.as_ref().filter(|held| held.freeze_ms > 0) {
        words.push_str(&format!(", for {} ms", held.freeze_ms));
    }
    words
}

/// What is wrong with a disk's image; nothing when all of it is there.
pub fn faults(disk: &DiskImage) -> Vec<String> {
    let Some(faults) = &disk.faults else {
        return Vec::new();
    };
    let name = &disk.name;
    let mut words = Vec::new();
    match faults.gone {
        Some(Gone::Incomplete) => words.push(format!(
            "{name} went away while it was read: what had not been read by then is zeros"
        )),
        Some(Gone::AsIn(point)) => words.push(format!(
            "{name} went away while it was read: it is the disk as it is in the earlier recovery \
             point {point}"
        )),
        None => {}
    }
    if let Some((first, _)) = faults.unreadable.first() {
        words.push(format!(
            "{name}: {} bytes in {} places, the first at byte {first}, could not be read and are \
             zeros: check its file systems, and take what was there from an earlier recovery point",
            faults.unreadable_bytes(),
            faults.unreadable.len(),
        ));
    }
    words
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use relevo_wire::PointId;
    use relevo_wire::manifest::Faults;

    use super::*;

    /// Guards whoever recovers from an incomplete point against not being told.
    #[test]
    fn whatever_an_image_lacks_is_said() {
        let disk = |faults| DiskImage {
            name: "sdb".into(),
            size: 9000,
            root: None,
            sector: 512,
            serial: None,
            faults,
        };
        assert!(faults(&disk(None)).is_empty());
        let some = Faults::new(vec![(512, 1024), (4096, 4608)], None, 9);
        let said = faults(&disk(some)).join("\n");
        assert!(said.contains("sdb: 1024 bytes in 2 places, the first at byte 512"));
        let point = PointId::random();
        for (gone, words) in [
            (Gone::Incomplete, "is zeros".into()),
            (Gone::AsIn(point), point.to_string()),
        ] {
            let said = faults(&disk(Faults::new(vec![], Some(gone), 9)));
            assert!(said[0].contains(&words), "{said:?}");
        }
    }
}
