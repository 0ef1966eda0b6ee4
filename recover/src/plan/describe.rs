//! Findings of the steps that only look: disks, boot entry, size of the machine.

use super::{Finding, PlanInput, step};
use crate::boot_loader;
use crate::disk_layout::TableKind;
use crate::filesystem::ext::JournalState;
use crate::filesystem::signature::Content;
use crate::filesystem::volume::{Volumes, virtual_disk};

/// What is on every disk and volume, and the state of their journals.
pub(super) fn disks(volumes: &Volumes, findings: &mut Vec<Finding>) {
    for (index, (named, layout)) in volumes.disks.iter().zip(&volumes.layouts).enumerate() {
        let device = virtual_disk(index);
        match layout {
            Err(error) => findings.push(Finding::seen(
                step::DISKS,
                format!("disk {} cannot be read: {error}", named.name),
                format!(
                    "it is attached as {device} all the same; {}",
                    error.remedy()
                ),
            )),
            Ok(layout) => {
                let table = match layout.table {
                    TableKind::Gpt => "GPT",
                    TableKind::Mbr => "MBR",
                    TableKind::WholeDisk => "no partition table",
                };
                let list: Vec<String> = volumes
                    .all
                    .iter()
                    .filter(|v| v.disk == index)
                    .map(|v| {
                        // A signature says more than the table; the table more than nothing.
                        let purpose = v
                            .partition
                            .purpose()
                            .filter(|_| matches!(v.content, Content::Unknown | Content::Blank));
                        format!(
                            "{} {}",
                            v.partition.number,
                            purpose.unwrap_or(v.content.in_words())
                        )
                    })
                    .collect();
                findings.push(Finding::changed(
                    step::DISKS,
                    format!(
                        "disk {}: {} bytes, {table}: {}",
                        named.name,
                        named.disk.size(),
                        list.join(", ")
                    ),
                    format!("attached as {device} (virtio)"),
                    "the virtual machine has no other disk controller",
                ));
                for note in &layout.notes {
                    findings.push(Finding::seen(
                        step::DISKS,
                        note.clone(),
                        "the image itself is not changed",
                    ));
                }
            }
        }
    }
    for volume in &volumes.all {
        if let Some(problem) = &volume.problem {
            findings.push(Finding::seen(
                step::DISKS,
                format!("{}: {problem}", volume.in_words(&volumes.disks)),
                "planning goes on without it",
            ));
        }
        let Some(fs) = &volume.fs else { continue };
        match &fs.journal {
            JournalState::Clean => {}
            JournalState::Replayed => findings.push(Finding::seen(
                step::DISKS,
                format!("{} has a journal that was not replayed", volume.in_words(&volumes.disks)),
                "the server ran when the image was taken; the journal was applied in memory for planning, and \
                 the kernel replays it into the overlay at the first mount",
            )),
            JournalState::Ignored(reason) => findings.push(Finding::seen(
                step::DISKS,
                format!("{} has a journal that was not replayed, in a form that recover does not read ({reason})",
                    volume.in_words(&volumes.disks)),
                "planning saw the files as they stand without it; if a kernel was installed or removed in the \
                 last seconds before the image, check the boot entry below",
            )),
        }
    }
}

/// What the boot loader said, and what was tried before.
pub(super) fn boot_entry(
    volumes: &Volumes,
    entry: Option<&boot_loader::BootEntry>,
    findings: &mut Vec<Finding>,
) {
    let Some(entry) = entry else {
        findings.push(Finding::seen(
            step::BOOT_LOADER,
            "no boot loader configuration and no kernel",
            "a site kernel is needed",
        ));
        return;
    };
    for note in &entry.notes {
        findings.push(Finding::seen(
            step::BOOT_LOADER,
            note.clone(),
            "the next possibility was taken",
        ));
    }
    let kernel_on = volumes.all[entry.kernel.volume].in_words(&volumes.disks);
    findings.push(Finding::seen(
        step::BOOT_LOADER,
        format!(
            "{}: \"{}\", kernel {} on {kernel_on}",
            entry.source, entry.title, entry.kernel.path
        ),
        "this is what the server itself would have booted by default",
    ));
}

/// Where the machine is smaller than the server.
pub(super) fn machine(input: &PlanInput, findings: &mut Vec<Finding>) {
    let Some(recorded) = &input.recorded else {
        return;
    };
    let recorded_mib = recorded.memory / (1 << 20);
    if recorded_mib > input.memory_mib || recorded.cpus > input.cpus {
        findings.push(Finding::changed(
            step::MACHINE,
            format!(
                "the server had {recorded_mib} MiB of memory and {} CPUs",
                recorded.cpus
            ),
            format!(
                "{} MiB of memory, number of CPUs {}",
                input.memory_mib, input.cpus
            ),
            "as asked; services sized for the server's memory may not start with less",
        ));
    }
}
