//! Whether the marks of a disk are all that changed, and taking them when they are.

use std::path::Path;
use std::time::Duration;

use relevo_wire::{PointId, Timestamp};

use super::device::{Device, boot_id};
use super::grains::Grains;
use super::probe::Probe;
use super::record::{Facts, Record};
use super::{Basis, reboot};
use crate::disk::Disk;

/// Takes the marks into the record. They are proved by a full comparison when the last one is
/// older than `proof_every`. The error says why this disk's writes cannot be tracked.
pub(super) fn taken(
    dir: &Path,
    path: &Path,
    disk: &Disk,
    last: Option<PointId>,
    making: PointId,
    proof_every: Duration,
) -> Result<(Basis, Record, Probe), String> {
    let device = Device::of(disk.path())?;
    let boot = boot_id().ok_or("the kernel does not say which run of it this is")?;
    let kept = match Record::read(path) {
        Ok(kept) => kept,
        Err(error) => {
            tracing::warn!("{}: {error}: the disk is compared whole", path.display());
            None
        }
    };
    let alarm = kept.as_ref().and_then(|record| record.facts.alarm.clone());
    let (reason, (mut record, probe)) = match trusted(kept, &device, &boot, last, dir) {
        Ok((probe, mut record)) => {
            let marks = probe.take().ok_or("the marks are of another size")?;
            record.changed.merge(&marks);
            record.facts.base = last;
            record.facts.making = Some(making);
            record.write(path).map_err(|e| e.to_string())?;
            probe.kept();
            let old = |at: Timestamp| Timestamp::now().since(at) > proof_every;
            let changed = record.changed.clone();
            let basis = match record.facts.compared.is_none_or(old) {
                true => Basis::Proof(changed),
                false => Basis::Changed(changed),
            };
            return Ok((basis, record, probe));
        }
        Err(reason) => (reason, anew(&device, boot)?),
    };
    record.facts.alarm = alarm;
    let write = |record: &Record| record.write(path).map_err(|e| e.to_string());
    std::fs::create_dir_all(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    write(&record)?;
    Ok((Basis::Nothing(reason), record, probe))
}

/// The probe whose marks are all that changed since the record's base. The error says why there
/// is none.
pub(super) fn trusted(
    kept: Option<Record>,
    device: &Device,
    boot: &str,
    last: Option<PointId>,
    dir: &Path,
) -> Result<(Probe, Record), String> {
    let record = kept.ok_or("changes are tracked from now on")?;
    let facts = &record.facts;
    if let Some(alarm) = &facts.alarm {
        return Err(format!("tracking is not believed any more: {alarm}"));
    }
    if facts.boot != boot {
        let record = resumed(&record, device, boot, dir).ok_or("the server was started anew")?;
        return trusted(Some(record), device, boot, last, dir);
    }
    let probe = grounds(facts, device)?;
    if probe.is_taking() {
        return Err("a run was cut off while it took what was marked".into());
    }
    match last {
        None => Err("the cache does not hold the last image".into()),
        Some(last) if Some(last) == facts.base || Some(last) == facts.making => Ok((probe, record)),
        Some(_) => Err("the cache holds another image than the one known".into()),
    }
}

/// The probe of these facts, when it has seen all that was written to the disk since it was
/// started. The error says why not.
pub(super) fn grounds(facts: &Facts, device: &Device) -> Result<Probe, String> {
    if (facts.sequence, facts.size) != (device.sequence, device.size)
        || facts.identity != device.identity()
    {
        return Err("the disk is another one, or has another size".into());
    }
    let probe = Probe::open(device).ok_or("what marks its writes is gone")?;
    if probe.generation() != facts.generation {
        return Err("its writes are marked by another probe than the one known".into());
    }
    if let Some(fault) = probe.fault() {
        return Err(fault.into());
    }
    // In this order: what is completed between the two is counted by the probe only.
    let written = device
        .sectors_written()
        .ok_or("the kernel does not say how much was written")?;
    if written.saturating_sub(probe.sectors()) > facts.unseen {
        return Err("more was written than was seen".into());
    }
    Ok(probe)
}

/// The record of a server that was restarted cleanly: the probe that goes on is known by its
/// number.
fn resumed(record: &Record, device: &Device, boot: &str, dir: &Path) -> Option<Record> {
    let kept = reboot::kept_of(dir, record.facts.generation)?;
    let mut record = record.clone();
    record.facts.boot = boot.into();
    record.facts.sequence = device.sequence;
    record.facts.generation = kept.successor();
    // It was started before anything was written, or what was is known and marked.
    record.facts.unseen = Probe::open(device).map_or(0, |probe| probe.unseen());
    record.changed.merge(&kept.changed(device));
    Some(record)
}

/// Starts a probe, and a record that knows of no change.
fn anew(device: &Device, boot: String) -> Result<(Record, Probe), String> {
    let generation = u64::from_le_bytes(relevo_wire::id::random_bytes());
    let probe = Probe::start(device, generation)?;
    let facts = Facts {
        identity: device.identity(),
        size: device.size,
        boot,
        sequence: device.sequence,
        generation,
        unseen: probe.unseen(),
        base: None,
        making: None,
        compared: None,
        alarm: None,
    };
    let changed = Grains::none(device.size);
    Ok((Record { facts, changed }, probe))
}
