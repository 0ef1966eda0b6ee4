//! The process that serves the disks of one running machine, from its start to SIGTERM.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use relevo_wire::PointId;
use relevo_wire::manifest::DiskImage;

use super::ServedDisk;
use super::vhost_user::VhostUserServer;
use crate::block::BlockWrite;
use crate::cancel::block_signals;
use crate::failure::Failure;
use crate::image::{Patience, RecoveryPoint};
use crate::overlay::Overlay;
use crate::site::Site;

/// What to serve.
#[derive(Clone, Debug)]
pub struct ServeDisks {
    /// The site's state directory.
    pub state: PathBuf,
    /// The recovery point.
    pub point: PointId,
    /// Sockets and overlays go here.
    pub run: PathBuf,
    /// Memory for plaintext, in bytes.
    pub cache: usize,
}

/// The socket of disk number `index` of a run.
pub fn socket(run: &Path, index: usize) -> PathBuf {
    run.join(format!("disk{index}.sock"))
}

/// Where the overlays of a run over `point` are.
pub fn overlays(run: &Path, point: PointId) -> PathBuf {
    run.join("overlays").join(point.to_string())
}

/// What the guest sees as the disk's serial number: the hardware's, so that names under
/// `/dev/disk/by-id` keep their meaning.
pub fn serial(disk: &DiskImage) -> String {
    let serial = disk.serial.as_deref().unwrap_or(&disk.name);
    serial
        .chars()
        .filter(char::is_ascii_graphic)
        .take(20)
        .collect()
}

/// Serves until SIGTERM, SIGINT or SIGHUP; then everything written is durable. Says so in one
/// line of JSON on `ready` once front ends can connect.
pub fn run(options: &ServeDisks, mut ready: impl Write) -> Result<(), Failure> {
    let signals = block_signals()
        .map_err(|e| Failure::new(format!("signals: {e}"), "start the command again"))?;
    let site = Site::open(&options.state)?;
    let link = site.connect(Patience::Forever)?;
    let point = RecoveryPoint::open_with_cache(&link, site.keys(), options.point, options.cache)?;
    let mut disks: Vec<Arc<Overlay>> = Vec::new();
    for (index, image) in point.disks().iter().enumerate() {
        let dir = overlays(&options.run, point.id()).join(index.to_string());
        let base_id = format!("{}/{}", point.id(), image.name);
        let overlay = Arc::new(Overlay::open(&dir, Box::new(point.disk(image)), &base_id)?);
        disks.push(overlay.clone());
        let served = ServedDisk::Writable(overlay);
        let server = VhostUserServer::bind(&socket(&options.run, index), served, &serial(image))?;
        std::thread::Builder::new()
            .name(format!("disk{index}"))
            .spawn(move || serve(server))
            .map_err(|e| Failure::new(format!("no thread for a disk: {e}"), "free some memory"))?;
    }
    // The reader may have gone: that is for it to know.
    let _ = writeln!(
        ready,
        "{}",
        serde_json::json!({"ready": true, "disks": disks.len()})
    )
    .and_then(|()| ready.flush());
    drop(ready);
    let _ = signals.wait();
    link.close();
    for disk in &disks {
        disk.flush()?;
    }
    for index in 0..disks.len() {
        let _ = std::fs::remove_file(socket(&options.run, index));
    }
    Ok(())
}

fn serve(mut server: VhostUserServer) {
    loop {
        if let Err(error) = server.serve_one() {
            tracing::error!(%error, "serving a disk failed");
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
    }
}
