//! A protected server: its disks, and the runs of its agent.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use relevo_agent::AgentError;
use relevo_agent::backup::BackupRun;
use relevo_agent::disk::{Disk, DiskArgument};
use relevo_agent::pipeline::Counters;
use relevo_agent::stop::Stop;
use relevo_agent::uplink::{Patience, UplinkError};
use relevo_vault::volume::simulated::Dice;
use relevo_wire::ServerId;
use relevo_wire::client::ClientError;
use relevo_wire::index::SPAN;
use relevo_wire::inventory::Inventory;
use relevo_wire::message::RefusalCode;
use relevo_wire::upload::UploadLimits;

use crate::image::Image;
use crate::network::{Dialer, Line};
use crate::promises::State;
use crate::world::World;

/// One server.
pub struct Server {
    /// Its id.
    pub id: ServerId,
    /// Whose it is.
    pub tenant: usize,
    /// Its line to the vault.
    pub line: Mutex<Line>,
    disks: Mutex<Vec<Image>>,
    dir: PathBuf,
}

impl Server {
    /// A server with one disk or two, of one span or some.
    pub fn new(dir: PathBuf, tenant: usize, dice: &mut Dice) -> Self {
        std::fs::create_dir(&dir).unwrap();
        let count = 1 + usize::from(dice.once_in(4));
        let disk = |dice: &mut Dice| {
            let small = 512 * (20 + dice.roll(600));
            let mut image = Image::new(match dice.once_in(6) {
                true => SPAN * (1 + dice.roll(2)) + small,
                false => small,
            });
            for _ in 0..1 + dice.roll(3) {
                image.change(dice);
            }
            image
        };
        Self {
            id: ServerId::random(),
            tenant,
            line: Mutex::default(),
            disks: Mutex::new((0..count).map(|_| disk(dice)).collect()),
            dir,
        }
    }

    /// What its disks hold now.
    pub fn disks(&self) -> Vec<Image> {
        self.disks.lock().unwrap().clone()
    }

    /// Somebody works on it.
    pub fn work(&self, dice: &mut Dice) {
        for disk in self.disks.lock().unwrap().iter_mut() {
            for _ in 0..dice.roll(3) {
                disk.change(dice);
            }
        }
    }

    /// The agent's cache is lost.
    pub fn forget(&self) {
        let _ = std::fs::remove_file(self.dir.join("cache.sqlite"));
        let _ = std::fs::remove_file(self.dir.join("cache.sqlite-wal"));
    }
}

/// How a run ended that made no recovery point.
#[derive(Debug)]
pub enum Ended {
    /// The agent was killed.
    Killed,
    /// It said why.
    Failed(AgentError),
}

/// Runs a server's agent to its end, or for so long.
pub async fn back_up(
    world: &Arc<World>,
    at: usize,
    killed_after: Option<Duration>,
) -> Result<(), Ended> {
    let server = &world.servers[at];
    let image = Arc::new(server.disks());
    let mut disks = Vec::new();
    for (number, disk) in image.iter().enumerate() {
        let path = server.dir.join(format!("sd{}", ['a', 'b'][number]));
        disk.write(&path);
        disks.push(Disk::open(&DiskArgument::from(path)).unwrap());
    }
    world.tick();
    let keys = &world.tenants[server.tenant].keys;
    let run = BackupRun {
        server: server.id,
        tenant: keys.sealing.tenant,
        keys: keys.sealing.clone(),
        disks,
        inventory: Inventory {
            hostname: format!("server-{at}"),
            ..Inventory::default()
        },
        cache: server.dir.join("cache.sqlite"),
        tracking: None,
        proof_every: std::time::Duration::MAX,
        holding: Default::default(),
        workers: 0,
        // Small, so that a small disk takes many requests.
        limits: UploadLimits {
            held_bytes: 64 << 10,
            ask_ids: 1 + world.roll(4) as usize,
            put_bytes: 1 + world.roll(64 << 10) as usize,
            in_flight: 1 + world.roll(3) as usize,
        },
        patience: Patience {
            first: Duration::from_millis(50),
            longest: Duration::from_millis(800),
            total: Duration::from_secs(20),
        },
        counters: Arc::new(Counters::default()),
        stop: Stop::default(),
    };
    let dialer = Dialer {
        world: world.clone(),
        server: at,
        image,
    };
    world.note(format_args!("server {at}: the agent starts"));
    let done = match killed_after {
        Some(limit) => tokio::time::timeout(limit, run.run(&dialer)).await,
        None => Ok(run.run(&dialer).await),
    };
    // Whatever is under way of a run that ended has nobody to be answered.
    world.line(at).cut();
    match done {
        Err(_) => {
            world.note(format_args!("server {at}: the agent is killed"));
            Err(Ended::Killed)
        }
        Ok(Ok((report, _))) => {
            world.note(format_args!(
                "server {at}: point {} with {} bytes sent",
                report.point, report.sent_bytes
            ));
            let promises = world.promises();
            let state = promises.points[&report.point].state;
            assert!(
                state != State::Asked,
                "the agent reports a point that the vault did not acknowledge"
            );
            Ok(())
        }
        Ok(Err(error)) => {
            world.note(format_args!("server {at}: {error}"));
            world.excuse(&error);
            Err(Ended::Failed(error))
        }
    }
}

impl World {
    /// Whether a point that is, or may be, deleted is named.
    fn names_deleted(&self, text: &str) -> bool {
        let promises = self.promises();
        let mut points = promises.points.iter();
        points.any(|(id, promise)| {
            matches!(promise.state, State::DeletionAsked | State::Deleted)
                && text.contains(&id.to_string())
        })
    }

    /// An agent may fail for what was done to it, and for nothing else.
    fn excuse(&self, error: &AgentError) {
        let client = match error {
            AgentError::Client(client) => client,
            AgentError::Uplink(UplinkError::Client(client)) => client,
            AgentError::Uplink(UplinkError::VaultChanged) if self.may_fall() => return,
            AgentError::Incomplete(_) if self.promises().ever_damaged => return,
            other => panic!("an agent's run ends with: {other}"),
        };
        match client {
            ClientError::Connection { .. } if self.may_break() => {}
            ClientError::Refused(refusal) => match refusal.code {
                RefusalCode::Storage | RefusalCode::Full if self.may_fail() => {}
                // The answer to its commit was lost, and the point was deleted before it asked again.
                RefusalCode::Corrupt if self.names_deleted(&refusal.to_string()) => {}
                code => panic!("an honest agent is refused with {code:?}: {refusal}"),
            },
            other => panic!("an agent's run ends with: {other}"),
        }
    }
}
