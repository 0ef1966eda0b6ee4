//! Boot loader entries: one file per kernel (the UAPI group's Boot Loader Specification, type 1).
//!
//! GRUB's `blscfg` and systemd-boot read the same files; GRUB also expands its variables in them.

use std::cmp::Ordering;

use super::{Choice, version};
use crate::filesystem::tree::{Place, Tree};
use crate::filesystem::volume::Volumes;

/// Where the entries lie, seen from the running system.
pub const DIRECTORIES: &[&str] = &[
    "/boot/loader/entries",
    "/efi/loader/entries",
    "/boot/efi/loader/entries",
];

/// One entry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entry {
    /// File name without `.conf`.
    pub id: String,
    /// `title`.
    pub title: String,
    /// `version`.
    pub version: String,
    /// `linux`.
    pub linux: String,
    /// `initrd`, all of them.
    pub initrds: Vec<String>,
    /// `options`, joined.
    pub options: String,
}

/// Parses one entry.
pub fn parse(id: &str, text: &str) -> Entry {
    let mut entry = Entry {
        id: id.into(),
        ..Entry::default()
    };
    for line in text.lines().map(str::trim).filter(|l| !l.starts_with('#')) {
        let (key, value) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let value = value.trim();
        match key {
            "title" => entry.title = value.into(),
            "version" => entry.version = value.into(),
            "linux" => entry.linux = value.into(),
            // Fedora and RHEL put several files, or a variable of GRUB's, into one line.
            "initrd" => entry
                .initrds
                .extend(value.split_whitespace().map(str::to_owned)),
            "options" => {
                if !entry.options.is_empty() {
                    entry.options.push(' ');
                }
                entry.options.push_str(value);
            }
            _ => {}
        }
    }
    if entry.title.is_empty() {
        entry.title = id.into();
    }
    entry
}

/// All entries of a directory that have a kernel, the one that a loader shows first at the top.
pub fn entries(tree: &Tree, directory: &str) -> Vec<Entry> {
    let mut entries: Vec<Entry> = tree
        .list(directory)
        .iter()
        .filter_map(|name| {
            let id = name.strip_suffix(".conf")?;
            Some(parse(id, &tree.text(&format!("{directory}/{name}"))?))
        })
        .filter(|entry| !entry.linux.is_empty())
        .collect();
    entries.sort_by(newest_first);
    entries
}

fn newest_first(a: &Entry, b: &Entry) -> Ordering {
    let key = |e: &Entry| {
        if e.version.is_empty() {
            e.id.clone()
        } else {
            e.version.clone()
        }
    };
    // A rescue entry carries version "0-rescue-…" and so ends up last.
    version::compare(&key(b), &key(a)).then_with(|| version::compare(&b.id, &a.id))
}

/// Reads entries as systemd-boot does: the pattern in `loader.conf`, else the first entry.
pub fn read(_: &Volumes, system: &Tree, place: &Place, path: &str) -> Result<Choice, String> {
    let entries = entries(system, path);
    let parent = path.trim_end_matches("/entries");
    let pattern = system
        .text(&format!("{parent}/loader.conf"))
        .and_then(|text| {
            text.lines().find_map(|l| {
                l.trim()
                    .strip_prefix("default")
                    .map(|v| v.trim().to_owned())
            })
        });
    let chosen = pattern
        .as_deref()
        .and_then(|p| {
            entries
                .iter()
                .find(|e| matches(p.trim_end_matches(".conf"), &e.id))
        })
        .or_else(|| entries.first())
        .ok_or("no entry names a kernel")?;
    let (options, notes) = without_variables(&chosen.options);
    Ok(Choice {
        title: chosen.title.clone(),
        volume: Some(place.volume),
        kernel: chosen.linux.clone(),
        initrds: chosen
            .initrds
            .iter()
            .filter(|i| !i.contains('$'))
            .cloned()
            .collect(),
        arguments: options,
        notes,
    })
}

/// Leaves out variables that only GRUB's environment could fill.
fn without_variables(options: &str) -> (String, Vec<String>) {
    let (unknown, known): (Vec<&str>, Vec<&str>) =
        options.split_whitespace().partition(|w| w.starts_with('$'));
    let notes = unknown
        .iter()
        .map(|v| format!("{v} has no value without GRUB's environment and was left out"));
    (known.join(" "), notes.collect())
}

/// `*` and `?` as in shell patterns. Only the last `*` is ever tried again, which is enough and
/// keeps a pattern of many from taking for ever.
fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t) = (0, 0);
    // Behind the last star, and where what it stands for ends.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                p += 1;
                star = Some((p, t));
            }
            Some(c) if *c == '?' || *c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => {
                let Some((behind, end)) = star else {
                    return false;
                };
                star = Some((behind, end + 1));
                (p, t) = (behind, end + 1);
            }
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rescue_entries_sort_last_and_newest_first() {
        let mut entries: Vec<Entry> = [
            ("m-0-rescue", "0-rescue-abc"),
            ("m-5.14.0-70.el9", "5.14.0-70.el9"),
            ("m-5.14.0-427.el9", "5.14.0-427.el9"),
        ]
        .iter()
        .map(|(id, version)| Entry {
            id: (*id).into(),
            version: (*version).into(),
            ..Entry::default()
        })
        .collect();
        entries.sort_by(newest_first);
        let ids: Vec<&str> = entries.iter().map(|e| e.id.as_str()).collect();
        assert_eq!(ids, ["m-5.14.0-427.el9", "m-5.14.0-70.el9", "m-0-rescue"]);
    }

    #[test]
    fn patterns_match_as_in_a_shell() {
        assert!(matches("arch-*", "arch-lts"));
        assert!(matches("*", ""));
        assert!(!matches("arch", "arch-lts"));
        assert!(matches("a?c*e", "abcde"));
        assert!(matches("*b*d*", "abcde"));
        assert!(!matches("*b*d", "abcde"));
        assert!(!matches("?", ""));
    }

    /// Guards against patterns that would be tried in more ways than there is time for.
    #[test]
    fn a_pattern_of_many_stars_ends() {
        let pattern = "*a".repeat(60) + "*b";
        assert!(!matches(&pattern, &"a".repeat(250)));
    }
}
