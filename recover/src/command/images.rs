//! Enrolment, and what is in the vault or its packs.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use relevo_wire::Timestamp;
use relevo_wire::message::PointEntry;
use serde_json::json;

use super::access::Access;
use super::keys::for_state;
use super::options::{EnrollArgs, InspectArgs, ListArgs, PlanArgs, RestoreArgs};
use super::words::{bytes, duration, print, print_json, table};
use crate::cancel::Cancel;
use crate::failover::preparation::{self, MachineRequest};
use crate::failure::Failure;
use crate::image::{Patience, RecoveryPoint, soundness};
use crate::restore;
use crate::site::Site;
use crate::sizing::{Size, Sizing};

pub fn enroll(state: &Path, args: &EnrollArgs) -> Result<(), Failure> {
    let name = match &args.name {
        Some(name) => name.clone(),
        None => host_name(),
    };
    let keys = for_state(&args.keys, args.wrap, &args.unlock)?;
    let enrollment = Site::enroll(state, &args.vault, &args.token, &keys, &name)?;
    if args.json {
        return print_json(&json!({
            "vault": enrollment.vault,
            "name": enrollment.name,
            "identity": enrollment.identity,
            "expires": enrollment.expires,
            "state": state,
        }));
    }
    print(&format!(
        "{name} is a recovery site of the vault at {} until {}\n",
        args.vault, enrollment.expires
    ))
}

fn host_name() -> String {
    let name = rustix::system::uname();
    name.nodename().to_string_lossy().into_owned()
}

pub fn list(state: &Path, args: &ListArgs) -> Result<(), Failure> {
    let link = Access::open(state, &args.source, Patience::default())?.source;
    let mut servers = Vec::new();
    for server in link.servers()? {
        let latest = if server.points > 0 {
            link.points(server.id)?.into_iter().next()
        } else {
            None
        };
        servers.push((server, latest));
    }
    if args.json {
        let servers: Vec<_> = servers
            .iter()
            .map(|(server, latest)| {
                json!({
                    "id": server.id,
                    "name": server.name,
                    "enrolled": server.enrolled,
                    "points": server.points,
                    "latest": latest.as_ref().map(point_json),
                })
            })
            .collect();
        return match args.source.packs.is_some() {
            true => print_json(&json!({ "servers": servers, "damage": link.damage() })),
            false => print_json(&json!({ "servers": servers })),
        };
    }
    if servers.is_empty() {
        return print("The vault has no servers yet: enrol an agent with 'relevo-agent enroll'.\n");
    }
    let mut rows = vec![row(&["SERVER", "ID", "POINTS", "LATEST", "AGE", "DISKS"])];
    for (server, latest) in &servers {
        let (taken, age, size) = match latest {
            Some(point) => (
                point.manifest.taken.to_string(),
                duration(Timestamp::now().since(point.manifest.taken)),
                bytes(point.manifest.totals.disk),
            ),
            None => ("none yet".into(), String::new(), String::new()),
        };
        rows.push(vec![
            server.name.clone(),
            server.id.to_string(),
            server.points.to_string(),
            taken,
            age,
            size,
        ]);
    }
    print(&table(&rows))
}

fn row(entries: &[&str]) -> Vec<String> {
    entries.iter().map(|entry| (*entry).to_string()).collect()
}

fn point_json(point: &PointEntry) -> serde_json::Value {
    json!({
        "point": point.manifest.point,
        "taken": point.manifest.taken,
        "committed": point.committed,
        "disk_bytes": point.manifest.totals.disk,
        "changed_bytes": point.manifest.totals.changed,
        "stored_bytes": point.stored,
        "verified": point.verified,
    })
}

pub fn inspect(state: &Path, args: &InspectArgs) -> Result<(), Failure> {
    let Access { source: link, keys } = Access::open(state, &args.source, Patience::default())?;
    let args = &args.point;
    let server = link.select_server(&args.server)?;
    let selected = link.select_point(&server, &args.point)?;
    let points = link.points(server.id)?;
    let point = RecoveryPoint::open(&link, &keys, selected.manifest.point)?;
    let (body, inventory) = (point.body(), point.inventory());
    if args.json {
        let disks: Vec<_> = body
            .disks
            .iter()
            .map(|disk| {
                json!({
                    "name": disk.name,
                    "size": disk.size,
                    "sector": disk.sector,
                    "serial": disk.serial,
                    "faults": disk.faults,
                })
            })
            .collect();
        return print_json(&json!({
            "server": server.id,
            "name": server.name,
            "point": point.id(),
            "taken": point.manifest().taken,
            "consistency": body.consistency,
            "held": body.held,
            "agent": body.agent,
            "started": body.started,
            "finished": body.finished,
            "disks": disks,
            "inventory": inventory,
            "sizing": inventory.load.as_ref().and_then(|load| Sizing::of(load, inventory)),
            "points": points.iter().map(point_json).collect::<Vec<_>>(),
        }));
    }
    let mut text = format!(
        "{}  {}\n\nRecovery points, newest first\n",
        server.name, server.id
    );
    let mut rows = vec![row(&["POINT", "TAKEN", "CHANGED", "STORED", "VERIFIED"])];
    for other in &points {
        rows.push(vec![
            other.manifest.point.to_string(),
            other.manifest.taken.to_string(),
            bytes(other.manifest.totals.changed),
            bytes(other.stored),
            other
                .verified
                .map_or("not yet".into(), |time| time.to_string()),
        ]);
    }
    text.push_str(&table(&rows));
    text.push_str(&format!("\nRecovery point {}\n", point.id()));
    let mut facts = vec![
        row(&["taken", &point.manifest().taken.to_string()]),
        row(&["consistency", &soundness::consistency(body)]),
        row(&["agent", &body.agent]),
    ];
    for reason in body.held.iter().flat_map(|held| &held.reasons) {
        facts.push(row(&["no better", reason]));
    }
    for (name, value) in [
        ("host name", &inventory.hostname),
        ("system", &inventory.os),
        ("kernel", &inventory.kernel),
        ("machine", &inventory.product),
    ] {
        if !value.is_empty() {
            facts.push(row(&[name, value]));
        }
    }
    if inventory.cpus > 0 || inventory.memory > 0 {
        let size = format!("{} CPUs, {}", inventory.cpus, bytes(inventory.memory));
        facts.push(row(&["size", &size]));
    }
    for disk in &body.disks {
        let serial = disk
            .serial
            .as_deref()
            .map(|s| format!(", serial {s}"))
            .unwrap_or_default();
        facts.push(row(&[
            "disk",
            &format!("{}: {}{serial}", disk.name, bytes(disk.size)),
        ]));
    }
    for card in &inventory.interfaces {
        facts.push(row(&[
            "network",
            &format!("{} {} {}", card.name, card.mac, card.addresses.join(" ")),
        ]));
    }
    text.push_str(&table(&facts));
    if let Some(sizing) = inventory
        .load
        .as_ref()
        .and_then(|load| Sizing::of(load, inventory))
    {
        text.push_str(&sizing_text(&sizing));
    }
    print(&text)
}

fn sizing_text(sizing: &Sizing) -> String {
    let size = |name: &str, size: &Size| {
        row(&[
            name,
            &size.vcpus.to_string(),
            &bytes(size.memory),
            &size.iops.to_string(),
            &format!("{}/s", bytes(size.disk_bytes_per_second)),
            &format!("{:.1} Mbit/s", size.network_bits_per_second as f64 / 1e6),
        ])
    };
    format!(
        "\nA machine for its work ({})\n{}",
        sizing.basis(),
        table(&[
            row(&["", "VCPUS", "MEMORY", "DISK IOPS", "DISK", "NETWORK"]),
            size("usual", &sizing.usual),
            size("peak", &sizing.peak),
        ])
    )
}

pub fn restore(state: &Path, args: &RestoreArgs) -> Result<(), Failure> {
    let cancel = cancel_on_signals()?;
    let Access { source: link, keys } = Access::open(state, &args.source, Patience::default())?;
    let server = link.select_server(&args.point.server)?;
    let selected = link.select_point(&server, &args.point.point)?;
    let point = RecoveryPoint::open(&link, &keys, selected.manifest.point)?;
    let image = point.find_disk(args.disk.as_deref())?;
    let disk = point.disk(image);

    let (force, salvage) = (args.force, args.salvage);
    let manner = restore::Manner { force, salvage };
    let progress = Arc::new(restore::Progress::default());
    let (flag, closing) = (progress.clone(), link.clone());
    cancel.also(move || {
        flag.cancelled
            .store(true, std::sync::atomic::Ordering::Relaxed);
        closing.close();
    });
    let bar = progress_bar(image.size);
    let began = std::time::Instant::now();
    let ended = std::sync::atomic::AtomicBool::new(false);
    let result = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(std::sync::atomic::Ordering::Relaxed) {
                bar.set_position(progress.done.load(std::sync::atomic::Ordering::Relaxed));
                std::thread::park_timeout(Duration::from_millis(100));
            }
            bar.finish_and_clear();
        });
        let result = restore::restore(&disk, &args.to, manner, &progress);
        ended.store(true, std::sync::atomic::Ordering::Relaxed);
        result
    });
    if cancel.is_set() && result.is_err() {
        return Err(Failure::new(
            format!(
                "interrupted before all of {} was written",
                args.to.display()
            ),
            "restore again",
        )
        .with_code(Failure::INTERRUPTED));
    }
    let restored = result?;
    let took = began.elapsed();
    if args.point.json {
        print_json(&json!({
            "server": server.id,
            "point": point.id(),
            "disk": image.name,
            "to": args.to,
            "disk_bytes": restored.disk_bytes,
            "data_bytes": restored.data_bytes,
            "zero_bytes": restored.zero_bytes,
            "damaged": restored.damaged,
            "duration_ms": took.as_millis() as u64,
        }))?;
    } else {
        print(&format!(
            "{} of {} as of {} is in {}: {}, of which {} are data, in {}\n",
            image.name,
            server.name,
            point.manifest().taken,
            args.to.display(),
            bytes(restored.disk_bytes),
            bytes(restored.data_bytes),
            duration(took)
        ))?;
    }
    whole(&restored, &args.to)
}

/// Fails when a part of the disk is zeros because it could not be had; says which.
fn whole(restored: &restore::Restored, to: &Path) -> Result<(), Failure> {
    if restored.damaged.is_empty() {
        return Ok(());
    }
    for one in &restored.damaged {
        let end = one.offset + one.length;
        tracing::warn!("bytes {} to {end} are zeros: {}", one.offset, one.reason);
    }
    let lost: u64 = restored.damaged.iter().map(|one| one.length).sum();
    Err(Failure::new(
        format!(
            "{} in {} places of {} could not be had and are zeros",
            bytes(lost),
            restored.damaged.len(),
            to.display()
        ),
        "check its file systems before anything uses it",
    ))
}

fn progress_bar(size: u64) -> ProgressBar {
    let bar = ProgressBar::new(size);
    let style = ProgressStyle::with_template(
        "{bar:40} {percent:>3} %  {binary_bytes}/{binary_total_bytes}  {binary_bytes_per_sec}  {eta} left",
    );
    if let Ok(style) = style {
        bar.set_style(style);
    }
    bar
}

pub fn cancel_on_signals() -> Result<Arc<Cancel>, Failure> {
    Cancel::on_signals()
        .map_err(|e| Failure::new(format!("signals: {e}"), "start the command again"))
}

pub fn plan(state: &Path, args: &PlanArgs) -> Result<(), Failure> {
    let Access { source: link, keys } = Access::open(state, &args.source, Patience::default())?;
    let server = link.select_server(&args.point.server)?;
    let selected = link.select_point(&server, &args.point.point)?;
    let point = RecoveryPoint::open(&link, &keys, selected.manifest.point)?;
    let request = MachineRequest::from(&args.machine);
    // A plan can be made anywhere; without a word from KVM it is for an ordinary host.
    let hardware = preparation::probe_host().map_or(true, |host| host.hardware_virtualization);
    let (plan, disks) = preparation::make_plan(&point, &request, hardware, Vec::new())?;
    let mut files = None;
    if let Some(dir) = &args.write {
        files = Some(preparation::write_for_others(&plan, &disks, dir)?);
    }
    if args.point.json {
        let mut value = serde_json::to_value(&plan)
            .map_err(|e| Failure::new(format!("JSON: {e}"), "report it as a defect"))?;
        value["server"] = json!(server.id);
        value["point"] = json!(point.id());
        value["kernel_source"] = value["kernel"].take();
        value["segments"] = value["initrd"].take();
        value["kernel"] = json!(files.as_ref().map(|f| &f.kernel));
        value["initrd"] = json!(files.as_ref().map(|f| &f.initrd));
        value["cmdline"] = json!(plan.command_line);
        return print_json(&value);
    }
    print(&plan.to_string())?;
    if let Some(files) = files {
        print(&format!(
            "\nWritten for another hypervisor: {} and {}\n",
            files.kernel.display(),
            files.initrd.display()
        ))?;
    }
    Ok(())
}
