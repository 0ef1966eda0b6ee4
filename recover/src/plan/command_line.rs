//! The kernel's command line: what the boot loader would give, made right for the virtual machine.

use super::system::System;
use super::{Finding, step};
use crate::filesystem::volume::{Volumes, split_device};

/// An adapted command line and what the shim needs from it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CommandLine {
    /// All of it.
    pub text: String,
    /// Value of `root=`.
    pub root: String,
    /// Value of `root=` before it was changed; empty if there was none.
    pub root_as_written: String,
    /// `rw` rather than `ro`.
    pub read_write: bool,
    /// Value of `rootflags=`.
    pub root_flags: String,
    /// Value of `init=`, else `/sbin/init`.
    pub init: String,
}

/// Where the shim lies in our segment.
pub const SHIM: &str = "/.relevo/init";

/// Adapts `arguments`. With `own_initramfs` the image's initramfs will look for the root itself.
///
/// `net.ifnames=0` is not added: it would rename every card to `ethN`, while the image's
/// configuration wants the recorded names. The shim gives those, and udev keeps a name that user
/// space has given.
pub fn adapt(
    arguments: &str,
    volumes: &Volumes,
    system: &System,
    own_initramfs: bool,
    findings: &mut Vec<Finding>,
) -> CommandLine {
    let mut line = CommandLine {
        init: "/sbin/init".into(),
        ..CommandLine::default()
    };
    let mut kept: Vec<String> = Vec::new();
    let mut resume = false;
    // Options of a serial line (its speed) are kept; the console is moved to the end, because the
    // last one named is the one that init talks to.
    let mut console = "console=ttyS0".to_owned();
    for word in split_words(arguments) {
        let (key, value) = word.split_once('=').unwrap_or((&word, ""));
        match key {
            // Given by boot loaders, meant for themselves or another initramfs.
            "BOOT_IMAGE" | "initrd" | "rdinit" => continue,
            "resume" | "resume_offset" => {
                resume = true;
                continue;
            }
            "noresume" => continue,
            "root" => {
                line.root_as_written = value.to_owned();
                continue;
            }
            "console" if value == "ttyS0" || value.starts_with("ttyS0,") => {
                console = word;
                continue;
            }
            "rootflags" => line.root_flags = value.to_owned(),
            "init" => line.init = value.to_owned(),
            "rw" => line.read_write = true,
            "ro" => line.read_write = false,
            _ => {}
        }
        kept.push(word);
    }
    line.root = root(&line.root_as_written, volumes, system, findings);

    // First, because the kernel forgets arguments for init that stand before it.
    let mut words = vec![format!("rdinit={SHIM}"), format!("root={}", line.root)];
    if !kept.iter().any(|w| w == "ro" || w == "rw") {
        words.push("ro".into());
    }
    words.append(&mut kept);
    if own_initramfs {
        words.push("noresume".into());
    }
    if resume {
        findings.push(Finding::changed(
            step::COMMAND_LINE,
            "resume= names swap space for hibernation",
            "left out",
            "a memory image must never be resumed on other hardware; and without the device the start would wait",
        ));
    }
    words.push(console);
    findings.push(Finding::changed(
        step::COMMAND_LINE,
        if arguments.is_empty() { "no arguments".to_owned() } else { arguments.to_owned() },
        format!("{SHIM} runs first, and console=ttyS0 is last"),
        "the shim loads the drivers and names the network cards; the virtual machine's only console is its first serial port",
    ));
    line.text = words.join(" ");
    line
}

/// What to write after `root=`: names that follow the file system are kept, names of the
/// server's hardware are replaced.
fn root(written: &str, volumes: &Volumes, system: &System, findings: &mut Vec<Finding>) -> String {
    let volume = &volumes.all[system.root];
    let by_uuid = volume.fs.as_ref().map(|fs| format!("UUID={}", fs.uuid));
    let stable = [
        "UUID=",
        "PARTUUID=",
        "LABEL=",
        "PARTLABEL=",
        "/dev/disk/by-uuid/",
        "/dev/disk/by-partuuid/",
        "/dev/disk/by-label/",
    ];
    if stable.iter().any(|prefix| written.starts_with(prefix))
        && volumes.resolve(written) == Some(system.root)
    {
        findings.push(Finding::seen(
            step::COMMAND_LINE,
            format!("root={written}"),
            "this name follows the file system, so it is kept",
        ));
        return written.to_owned();
    }
    let hardware = written
        .strip_prefix("/dev/")
        .and_then(split_device)
        .is_some();
    let (new, why) = match &volume.partition.part_uuid {
        Some(id) if hardware => (
            format!("PARTUUID={id}"),
            "disks have other names in the virtual machine",
        ),
        _ if hardware => (
            volume.device.clone(),
            "disks have other names in the virtual machine",
        ),
        _ => (
            by_uuid.unwrap_or_else(|| volume.device.clone()),
            "it names no volume of the image that could be read",
        ),
    };
    let found = if written.is_empty() {
        "no root= was given".to_owned()
    } else {
        format!("root={written}")
    };
    let why = if written.is_empty() {
        "the kernel has to know its root"
    } else {
        why
    };
    findings.push(Finding::changed(
        step::COMMAND_LINE,
        found,
        format!("root={new}"),
        why,
    ));
    new
}

/// Splits at blanks outside double quotes, as the kernel does; the quotes stay.
fn split_words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quoted = false;
    for c in text.chars() {
        if c == '"' {
            quoted = !quoted;
        }
        if c.is_whitespace() && !quoted {
            if !word.is_empty() {
                words.push(std::mem::take(&mut word));
            }
        } else {
            word.push(c);
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_blanks_do_not_split_words() {
        assert_eq!(
            split_words("a  dyndbg=\"file x +p\" b"),
            ["a", "dyndbg=\"file x +p\"", "b"]
        );
    }
}
