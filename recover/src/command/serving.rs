//! Disks and ports served to others.

use std::path::Path;
use std::sync::Arc;

use serde_json::json;

use super::access::Access;
use super::images::cancel_on_signals;
use super::options::{ExportArgs, PublishArgs, ServeDiskArgs};
use super::words::{bytes, print, print_json};
use crate::block::BlockWrite;
use crate::cancel::block_signals;
use crate::failure::Failure;
use crate::image::{Patience, RecoveryPoint};
use crate::network::publish::Forwarder;
use crate::overlay::Overlay;
use crate::serve_disk::ServedDisk;
use crate::serve_disk::nbd::{Export, NbdServer};
use crate::serve_disk::process::{self, ServeDisks};

pub fn export(state: &Path, args: &ExportArgs) -> Result<(), Failure> {
    let cancel = cancel_on_signals()?;
    let Access { source: link, keys } = Access::open(state, &args.source, Patience::Forever)?;
    let server = link.select_server(&args.point.server)?;
    let selected = link.select_point(&server, &args.point.point)?;
    let point = RecoveryPoint::open(&link, &keys, selected.manifest.point)?;
    let (mut exports, mut overlays) = (Vec::new(), Vec::new());
    for (index, image) in point.disks().iter().enumerate() {
        let disk = point.disk(image);
        let served = match &args.overlay {
            None => ServedDisk::ReadOnly(Arc::new(disk)),
            Some(dir) => {
                let base_id = format!("{}/{}", point.id(), image.name);
                let overlay =
                    Overlay::open(&dir.join(index.to_string()), Box::new(disk), &base_id)?;
                let overlay = Arc::new(overlay);
                overlays.push(overlay.clone());
                ServedDisk::Writable(overlay)
            }
        };
        exports.push(Export {
            name: image.name.clone(),
            disk: served,
        });
    }
    if exports.is_empty() {
        return Err(Failure::new(
            "the recovery point has no disk",
            "choose another recovery point",
        ));
    }
    let names: Vec<_> = exports
        .iter()
        .map(|export| json!({"name": export.name, "size": export.disk.size()}))
        .collect();
    let nbd = NbdServer::bind(&args.nbd, exports)?;
    let address = nbd.address().to_string();
    if args.point.json {
        print_json(&json!({
            "listening": address,
            "server": server.id,
            "point": point.id(),
            "exports": names,
            "writable": args.overlay.is_some(),
        }))?;
    } else {
        let mut text = format!(
            "{} as of {} is served on {address}; Ctrl-C ends it\n",
            server.name,
            point.manifest().taken
        );
        for image in point.disks() {
            text.push_str(&format!("  {}  {}\n", image.name, bytes(image.size)));
        }
        print(&text)?;
    }
    let (done, ended) = std::sync::mpsc::channel();
    let failed = done.clone();
    cancel.also(move || drop(done.send(Ok(()))));
    let nbd = Arc::new(nbd);
    let serving = nbd.clone();
    std::thread::spawn(move || drop(failed.send(serving.serve())));
    let result = ended.recv().unwrap_or(Ok(()));
    link.close();
    for overlay in &overlays {
        overlay.flush()?;
    }
    if let crate::serve_disk::nbd::NbdAddress::Unix(path) = nbd.address() {
        let _ = std::fs::remove_file(path);
    }
    result
}

pub fn serve_disk(state: &Path, args: &ServeDiskArgs) -> Result<(), Failure> {
    let options = ServeDisks {
        state: state.to_path_buf(),
        point: args.point,
        run: args.run.clone(),
        cache: args.cache_mib << 20,
    };
    process::run(&options, std::io::stdout())
}

pub fn publish(args: &PublishArgs) -> Result<(), Failure> {
    let signals = block_signals()
        .map_err(|e| Failure::new(format!("signals: {e}"), "start the command again"))?;
    let forwarder = Forwarder::bind(&args.forward, args.netns.as_deref(), args.server)?;
    let address = forwarder
        .address()
        .map_err(|e| Failure::new(e.to_string(), "choose another port"))?;
    tracing::debug!(%address, run = %args.run.display(), "publishing");
    print_json(&json!({ "listening": address }))?;
    std::thread::spawn(move || forwarder.serve());
    let _ = signals.wait();
    Ok(())
}
