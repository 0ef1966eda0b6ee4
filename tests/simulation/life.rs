//! What happens in a world, turn by turn, and how it ends.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use crate::catalogue::CatalogueFate;
use crate::hostile;
use crate::machine::End;
use crate::promises::State;
use crate::server::{Ended, back_up};
use crate::site::Site;
use crate::world::World;

/// Lives a world from beginning to end. Its trace's hash, and how many events it has.
pub fn live(seed: u64, shown: bool) -> (String, u64) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let world = World::new(seed, shown);
        world.plan_faults();
        for _ in 0..5 + world.roll(4) {
            turn(&world).await;
            world.settle().await;
        }
        end(&world).await;
        world.machine.fall();
        relevo_wire::simulation::end();
        world.trace.finish()
    })
}

async fn turn(world: &Arc<World>) {
    if world.fates.falls && world.once_in(6) {
        let after = Duration::from_millis(world.roll(600));
        let world = world.clone();
        world.clone().spawn(async move {
            sleep(after).await;
            world.vault_fell();
        });
    }
    if world.fates.failures && world.once_in(3) {
        let room = world.roll(200 << 10);
        world.note(format_args!("the vault's disk has {room} bytes left"));
        world.machine.disk.set_room(Some(room));
    }
    if world.once_in(4) && world.machine.is_up() {
        world.machine.catalogue.lock().unwrap().snapshot();
    }
    if world.once_in(3) {
        // Beside whatever is done in this turn: uploads are open then.
        let after = Duration::from_millis(world.roll(800));
        let world = world.clone();
        world.clone().spawn(async move {
            sleep(after).await;
            world.collect();
        });
    }
    look_after(world);
    let count = world.servers.len() as u64;
    match world.roll(22) {
        0..=4 => spawn_backup(world, world.roll(count) as usize),
        5 | 6 => (0..world.servers.len()).for_each(|at| spawn_backup(world, at)),
        7..=9 => world.delete(),
        10 => world.hold(),
        11 => world.lock(),
        12 => world.wait().await,
        13 if world.fates.hostile => hostile::attack(world),
        14 if world.fates.rot => world.rot_and_see(),
        15 => world.jump_clock(),
        16..=19 => thin_out(world).await,
        _ => {
            let at = world.roll(count) as usize;
            if world.once_in(3) {
                world.note(format_args!("server {at}: the agent's cache is lost"));
                world.servers[at].forget();
            }
            spawn_backup(world, at);
        }
    }
    world.settle().await;
    world.machine.disk.set_room(None);
    // A store that could not cut off what failed takes no more: its operator starts it anew.
    if world.fates.failures && world.once_in(2) {
        world.vault_fell();
    }
}

/// Parity is formed and damage healed beside the rest, in worlds that have them.
fn look_after(world: &Arc<World>) {
    if world.fates.parity.is_some() {
        let after = match world.once_in(2) {
            true => Duration::ZERO,
            false => Duration::from_millis(world.roll(600)),
        };
        let beside = world.clone();
        if after.is_zero() {
            world.protect();
        } else {
            world.spawn(async move {
                sleep(after).await;
                beside.protect();
            });
        }
    }
    // More is done to a group only when it is whole again.
    let rots = world.fates.rots_within_parity() && !world.promises().damaged;
    if rots && world.once_in(2) && world.machine.is_up() && world.rot_within_parity() {
        world.check("after damage");
    }
    if world.fates.heals && world.promises().damaged && world.once_in(2) {
        let after = Duration::from_millis(world.roll(600));
        let world = world.clone();
        world.clone().spawn(async move {
            sleep(after).await;
            world.heal(false).await;
        });
    }
}

/// Points are deleted and what they leave is collected, between backups and beside them.
async fn thin_out(world: &Arc<World>) {
    if world.once_in(2) {
        // Uploads of agents that were killed would hold everything back for a day.
        world.vault_fell();
        world.settle().await;
    }
    let beside = world.once_in(2);
    if beside {
        spawn_backup(world, world.roll(world.servers.len() as u64) as usize);
        sleep(Duration::from_millis(world.roll(300))).await;
    }
    for _ in 0..1 + world.roll(5) {
        world.delete();
    }
    // What falls free in this millisecond is not older than it.
    sleep(Duration::from_millis(2)).await;
    world.collect();
    if !beside && world.once_in(2) {
        // Agents come with caches full of what is gone.
        spawn_backup(world, world.roll(world.servers.len() as u64) as usize);
        sleep(Duration::from_millis(world.roll(300))).await;
        world.collect();
    }
}

fn spawn_backup(world: &Arc<World>, at: usize) {
    let (world, limit) = (world.clone(), world.roll(400));
    let killed = world.once_in(6).then_some(Duration::from_millis(limit));
    {
        let mut dice = world.dice().clone();
        world.servers[at].work(&mut dice);
        *world.dice() = dice;
    }
    world.clone().spawn(async move {
        let ended = back_up(&world, at, killed).await;
        if let Err(Ended::Failed(error)) = ended {
            let quiet = !world.may_break() && !world.may_fail() && !world.promises().ever_damaged;
            assert!(!quiet, "a backup fails though nothing befell it: {error}");
        }
    });
}

impl World {
    /// Damages packs, and starts the vault without its catalogue: all is looked at anew.
    fn rot_and_see(self: &Arc<Self>) {
        if !self.machine.is_up() || self.machine.disk.files().is_empty() {
            return;
        }
        for _ in 0..1 + self.roll(2) {
            self.rot();
        }
        self.check("after damage");
    }
}

/// The last of all: the lines are good and the disk is too, the power is cut once more, and
/// everybody is served.
async fn end(world: &Arc<World>) {
    world.calm_down();
    world.settle().await;
    (0..world.servers.len()).for_each(|at| world.line(at).open());
    world.note(format_args!("the end begins"));
    let damaged = world.promises().damaged;
    world.machine.fall();
    let heals = damaged && world.fates.heals;
    if damaged && !heals {
        // Going on without what is damaged is the administrator's word.
        world.machine.disk.mend();
    }
    let lost = (damaged && !heals).then_some(CatalogueFate::Lost);
    world.start_again(End::PowerCut, lost, false);
    if heals {
        world.heal(true).await;
    }
    for at in 0..world.servers.len() {
        let world = world.clone();
        world.clone().spawn(async move {
            back_up(&world, at, None)
                .await
                .unwrap_or_else(|e| panic!("server {at} is not served in the end: {e:?}"));
        });
    }
    world.settle().await;
    if heals {
        // What agents brought again covers what was damaged.
        world.heal(true).await;
        world.nothing_is_damaged();
    }
    everybody_is_whole(world);
    // All is deleted and collected, and everybody comes again with a cache full of what is gone.
    let reclaimed = world.delete_all();
    world.clock_ahead();
    world.collect_all(reclaimed && !world.promises().damaged);
    for at in 0..world.servers.len() {
        let world = world.clone();
        world.clone().spawn(async move {
            back_up(&world, at, None)
                .await
                .unwrap_or_else(|e| panic!("server {at} is not served after all: {e:?}"));
        });
    }
    world.settle().await;
    everybody_is_whole(world);
}

/// All promises hold, and each server's newest state is among what can be restored.
fn everybody_is_whole(world: &Arc<World>) {
    world.check("in the end");
    for (at, server) in world.servers.iter().enumerate() {
        let mut site = Site::new(world, &world.tenants[server.tenant]);
        let newest = {
            let promises = world.promises();
            let disks = server.disks();
            let now = |(id, p): (&_, &crate::promises::Promise)| {
                (p.server == at && p.state == State::Acknowledged && *p.image == disks)
                    .then_some(*id)
            };
            promises.points.iter().filter_map(now).collect::<Vec<_>>()
        };
        assert!(
            !newest.is_empty(),
            "server {at} has no point of what it holds"
        );
        let whole = newest
            .iter()
            .any(|id| site.compare(*id, &server.disks()) == Ok(()));
        assert!(whole, "server {at} cannot be restored in the end");
    }
}
