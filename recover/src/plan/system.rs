//! Which volume is the root of a Linux system, and what belongs to it.

use std::rc::Rc;

use super::{Finding, PlanError, step};
use crate::boot_loader::{self, BootEntry};
use crate::disk_layout::read_layout;
use crate::filesystem::signature::Content;
use crate::filesystem::tree::Tree;
use crate::filesystem::volume::{Volumes, split_device};
use crate::filesystem::{FileSystem, FsError};

/// Lines of an fstab that are read: each is looked up among all volumes.
const MAX_FSTAB: usize = 1024;

/// A line of fstab(5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FstabEntry {
    /// What is mounted, as written.
    pub device: String,
    /// Where.
    pub path: String,
    /// Type.
    pub kind: String,
    /// Options.
    pub options: String,
}

/// A Linux system on the disks.
pub struct System {
    /// Index of its root volume.
    pub root: usize,
    /// Its tree, with the volumes of its fstab that could be found and read.
    pub tree: Tree,
    /// Its fstab.
    pub fstab: Vec<FstabEntry>,
    /// `PRETTY_NAME` of os-release.
    pub name: Option<String>,
}

/// Files that tell a root from other volumes: none is on every system, any is on no data volume.
const MARKS: &[&str] = &[
    "/etc/fstab",
    "/etc/os-release",
    "/usr/lib/os-release",
    "/etc/inittab",
    "/etc/passwd",
    "/sbin/init",
    "/usr/sbin/init",
    "/bin/busybox",
    "/usr/lib/systemd/systemd",
];

/// Finds every volume that looks like a root, the most likely first.
pub fn find(volumes: &Volumes) -> Result<Vec<System>, PlanError> {
    let mut found = Vec::new();
    for (index, volume) in volumes.all.iter().enumerate() {
        let Some(fs) = &volume.fs else { continue };
        let mut tree = Tree::of(index, Rc::clone(fs) as Rc<dyn FileSystem>);
        let marks = MARKS
            .iter()
            .filter(|m| matches!(tree.find(m), Ok(Some(_))))
            .count();
        if marks == 0 || !matches!(tree.find("/etc"), Ok(Some(_))) {
            continue;
        }
        let fstab = parse_fstab(&tree.text("/etc/fstab").unwrap_or_default());
        for entry in &fstab {
            if entry.path != "/"
                && let Some(other) = volumes.resolve(&entry.device)
                && let Some(fs) = volumes.all.get(other).and_then(|v| v.fs.clone())
            {
                tree.mount(&entry.path, other, fs);
            }
        }
        let name = ["/etc/os-release", "/usr/lib/os-release"]
            .iter()
            .find_map(|p| tree.text(p))
            .and_then(|text| pretty_name(&text));
        found.push((
            marks,
            System {
                root: index,
                tree,
                fstab,
                name,
            },
        ));
    }
    if found.is_empty() {
        return Err(nothing_found(volumes));
    }
    found.sort_by_key(|(marks, _)| std::cmp::Reverse(*marks));
    Ok(found.into_iter().map(|(_, system)| system).collect())
}

/// Takes the first system that has something to boot, else the first.
pub fn choose(
    volumes: &Volumes,
    systems: Vec<System>,
    findings: &mut Vec<Finding>,
) -> Result<(System, Option<BootEntry>), FsError> {
    let names: Vec<String> = systems
        .iter()
        .map(|s| volumes.all[s.root].in_words(&volumes.disks))
        .collect();
    let mut chosen: Option<(System, Option<BootEntry>)> = None;
    for system in systems {
        let entry = boot_loader::find_default(volumes, &system.tree)?;
        let better = match &chosen {
            None => true,
            Some((_, before)) => before.is_none() && entry.is_some(),
        };
        if better {
            chosen = Some((system, entry));
        }
    }
    let Some((mut system, entry)) = chosen else {
        return Err(FsError::NotFound {
            path: "/etc".into(),
        });
    };
    // The boot loader's word on the root counts more than where its configuration lies.
    let named = entry
        .as_ref()
        .and_then(|e| root_argument(&e.arguments))
        .and_then(|root| volumes.resolve(root));
    if let Some(other) = named.filter(|v| *v != system.root)
        && let Some(better) = find(volumes)
            .ok()
            .and_then(|all| all.into_iter().find(|s| s.root == other))
    {
        system = better;
    }
    let root = volumes.all[system.root].in_words(&volumes.disks);
    let name = system
        .name
        .clone()
        .unwrap_or_else(|| "a Linux system".into());
    let why = match names.len() {
        1 => "it is the only volume with a system on it".to_owned(),
        _ => format!(
            "systems were seen on {}; this one is what the boot loader starts",
            names.join(" and ")
        ),
    };
    findings.push(Finding::seen(
        step::SYSTEM,
        format!("{name} on {root}"),
        why,
    ));
    for (path, volume) in system.tree.mounts() {
        let found = format!(
            "{path} is on {}",
            volumes.all[volume].in_words(&volumes.disks)
        );
        findings.push(Finding::seen(step::SYSTEM, found, "its fstab says so"));
    }
    Ok((system, entry))
}

/// The value of the last `root=`, which is the one that counts.
pub fn root_argument(arguments: &str) -> Option<&str> {
    arguments
        .split_whitespace()
        .rev()
        .find_map(|w| w.strip_prefix("root="))
}

/// Links from the names that disks had on the server to the ones they have now, for what names
/// hardware directly. They are made in devtmpfs before init starts.
pub fn device_links(
    volumes: &Volumes,
    system: &System,
    root: &str,
    findings: &mut Vec<Finding>,
) -> Vec<(String, String)> {
    let mut links = Vec::new();
    let specs = system.fstab.iter().map(|e| e.device.as_str()).chain([root]);
    for spec in specs {
        let Some(name) = spec.strip_prefix("/dev/") else {
            continue;
        };
        // A link below a directory would need the directory: such names are old and rare.
        if split_device(name).is_none() || name.contains('/') {
            continue;
        }
        let Some(device) = volumes.resolve(spec).map(|v| &volumes.all[v].device) else {
            findings.push(Finding::seen(
                step::SYSTEM,
                format!("{spec} is named in fstab or on the command line, but no such volume is in the image"),
                "the system may wait for it when it starts; back that disk up too, or mark the line `nofail`",
            ));
            continue;
        };
        let target = device.trim_start_matches("/dev/").to_owned();
        if target == name || links.iter().any(|(n, _)| n == name) {
            continue;
        }
        findings.push(Finding::changed(
            step::SYSTEM,
            format!("{spec} is named by its hardware"),
            format!("a link {spec} to {device}, made before init starts"),
            "disks have other names here; a systemd that waits for the device by that name may still time \
             out, UUID= in fstab never does",
        ));
        links.push((name.to_owned(), target));
    }
    links
}

fn parse_fstab(text: &str) -> Vec<FstabEntry> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.starts_with('#'))
        .take(MAX_FSTAB)
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            Some(FstabEntry {
                device: fields.next()?.to_owned(),
                path: fields.next()?.to_owned(),
                kind: fields.next()?.to_owned(),
                options: fields.next().unwrap_or("defaults").to_owned(),
            })
        })
        .collect()
}

fn pretty_name(os_release: &str) -> Option<String> {
    let value = os_release
        .lines()
        .find_map(|l| l.strip_prefix("PRETTY_NAME="))?;
    Some(value.trim_matches(['"', '\'']).to_owned())
}

/// The error that names every volume, with the remedy for the one most likely to be the system.
fn nothing_found(volumes: &Volumes) -> PlanError {
    if volumes.all.is_empty() {
        for named in &volumes.disks {
            if let Err(source) = read_layout(named.disk.as_ref()) {
                return PlanError::Layout {
                    disk: named.name.clone(),
                    source,
                };
            }
        }
    }
    let mut seen: Vec<String> = volumes
        .disks
        .iter()
        .zip(&volumes.layouts)
        .filter_map(|(named, layout)| {
            layout
                .as_ref()
                .err()
                .map(|e| format!("disk {}: {e}", named.name))
        })
        .collect();
    let mut likely = Content::Blank;
    let mut largest = 0;
    for volume in &volumes.all {
        let what = volume.in_words(&volumes.disks);
        seen.push(match (&volume.problem, volume.content) {
            (Some(problem), _) => format!("{what}: {problem}"),
            (None, Content::Ext) => format!("{what} has no /etc of a system"),
            (None, _) => what,
        });
        let aside = matches!(
            volume.content,
            Content::Swap | Content::Fat | Content::Blank
        );
        if !aside && volume.content != Content::Ext && volume.partition.len > largest {
            largest = volume.partition.len;
            likely = volume.content;
        }
    }
    PlanError::NoSystem { seen, likely }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fstab_is_read_with_comments_and_missing_fields() {
        let fstab = parse_fstab("# x\nUUID=1 / ext4 defaults 0 1\n\n/dev/sda2 /boot ext2\nbad\n");
        assert_eq!(fstab.len(), 2);
        assert_eq!(fstab[1].options, "defaults");
    }

    #[test]
    fn the_last_root_counts() {
        assert_eq!(
            root_argument("root=/dev/sda1 ro root=UUID=5"),
            Some("UUID=5")
        );
        assert_eq!(root_argument("ro quiet"), None);
    }
}
