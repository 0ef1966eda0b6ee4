//! One world: a vault, servers of one tenant or two, lines between them, and what befalls all
//! of it. Everything in it follows from the seed.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use relevo_vault::ingest::Peer;
use relevo_vault::record::{Record, ServerRecord, SiteRecord};
use relevo_vault::volume::simulated::{Dice, Fault};
use relevo_wire::frame;
use relevo_wire::key::OpeningKeys;
use relevo_wire::manifest::SealedManifest;
use relevo_wire::message::Request;
use relevo_wire::{SiteId, TenantId, Timestamp};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::catalogue::CatalogueFate;
use crate::fates::Fates;
use crate::image::Image;
use crate::machine::{End, Machine};
use crate::network::{Line, Weather};
use crate::promises::{Hold, Promise, Promises, State};
use crate::server::Server;
use crate::trace::Trace;

/// When every world begins: 2026-11-22.
const BEGIN: i64 = 1_795_305_600_000;

/// An organisation.
pub struct Tenant {
    /// Open its images.
    pub keys: OpeningKeys,
    /// Its recovery site.
    pub site: SiteId,
}

impl Tenant {
    /// Its id.
    pub fn id(&self) -> TenantId {
        self.keys.sealing.tenant
    }
}

/// The world.
pub struct World {
    /// Its fates.
    pub fates: Fates,
    /// The vault's machine.
    pub machine: Machine,
    /// The tenants.
    pub tenants: Vec<Tenant>,
    /// The servers of all tenants.
    pub servers: Vec<Server>,
    /// What happened.
    pub trace: Trace,
    dice: Mutex<Dice>,
    promises: Mutex<Promises>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    state: Mutex<Changing>,
    begun: Instant,
}

struct Changing {
    /// Until the last check, all is quiet.
    calm: bool,
    /// How far the vault's wall clock is off, in milliseconds.
    clock_off: i64,
    deliveries: u64,
}

impl World {
    /// The world of a seed, with the vault started and the servers enrolled.
    pub fn new(seed: u64, shown: bool) -> Arc<Self> {
        relevo_wire::simulation::begin(seed, Timestamp::from_millis(BEGIN));
        let mut dice = Dice::new(seed ^ 0x005e_ed0f_a110_u64.rotate_left(17));
        // The first rolls of near seeds are near each other.
        for _ in 0..8 {
            dice.roll(2);
        }
        let fates = Fates::of(seed, &mut dice);
        let mut roll_at = [24, 60, 200, 1000][dice.roll(4) as usize] << 10;
        if fates.parity.is_some() {
            // So that many are closed.
            roll_at = roll_at.min(80 << 10);
        }
        let machine = Machine::new(seed, roll_at, &fates);
        let tenants: Vec<Tenant> = (0..1 + dice.roll(2))
            .map(|_| Tenant {
                keys: OpeningKeys::generate().unwrap(),
                site: SiteId::random(),
            })
            .collect();
        let servers = (0..1 + dice.roll(3) as usize)
            .map(|number| {
                let tenant = dice.roll(tenants.len() as u64) as usize;
                let dir = machine.dir().join(format!("server-{number}"));
                Server::new(dir, tenant, &mut dice)
            })
            .collect();
        let world = Arc::new(Self {
            fates,
            machine,
            tenants,
            servers,
            trace: Trace::new(shown),
            dice: Mutex::new(dice),
            promises: Mutex::default(),
            tasks: Mutex::default(),
            state: Mutex::new(Changing {
                calm: false,
                clock_off: 0,
                deliveries: 0,
            }),
            begun: Instant::now(),
        });
        world.note(format_args!("world: {fates:?}, packs of {roll_at}"));
        world.machine.start(&mut Dice::new(seed), false);
        world.enroll();
        world
    }

    /// Servers and sites as enrolment leaves them.
    fn enroll(&self) {
        let enrolled = Timestamp::from_millis(BEGIN);
        for (number, tenant) in self.tenants.iter().enumerate() {
            let servers = self.servers.iter().filter(|s| s.tenant == number);
            let server = |server: &Server| {
                Record::Server(ServerRecord {
                    id: server.id,
                    name: "server".into(),
                    enrolled,
                })
            };
            let mut records: Vec<Record> = servers.map(server).collect();
            records.push(Record::Site(SiteRecord {
                id: tenant.site,
                name: "site".into(),
                enrolled,
            }));
            let id = tenant.keys.sealing.tenant;
            let done = self
                .machine
                .with(move |vault| vault.store().append_blocking(id, records));
            done.unwrap().unwrap();
        }
    }

    /// Adds to the trace.
    pub fn note(&self, event: std::fmt::Arguments<'_>) {
        let at = self.begun.elapsed().as_millis();
        self.trace.note(format_args!("{at:6} ms {event}"));
    }

    /// A number below `sides`.
    pub fn roll(&self, sides: u64) -> u64 {
        self.dice().roll(sides)
    }

    /// True once in `times`.
    pub fn once_in(&self, times: u64) -> bool {
        self.dice().once_in(times)
    }

    /// The dice. Not to be held across anything that rolls.
    pub fn dice(&self) -> MutexGuard<'_, Dice> {
        self.dice.lock().unwrap()
    }

    /// The oracle. Not to be held across a request.
    pub fn promises(&self) -> MutexGuard<'_, Promises> {
        self.promises.lock().unwrap()
    }

    /// A server's line.
    pub fn line(&self, server: usize) -> MutexGuard<'_, Line> {
        self.servers[server].line.lock().unwrap()
    }

    /// Whom the vault sees on a server's line.
    pub fn peer(&self, server: usize) -> Peer {
        let server = &self.servers[server];
        Peer::Agent(self.tenants[server.tenant].keys.sealing.tenant, server.id)
    }

    /// The world's time in milliseconds, which goes by in whatever state the vault is.
    pub fn now(&self) -> u64 {
        self.begun.elapsed().as_millis() as u64
    }

    /// How bad the lines are now.
    pub fn weather(&self) -> Weather {
        match self.state.lock().unwrap().calm {
            true => Weather::Calm,
            false => self.fates.weather,
        }
    }

    /// Whether a connection may break.
    pub fn may_break(&self) -> bool {
        self.fates.falls || self.fates.failures || self.fates.weather != Weather::Calm
    }

    /// Whether the vault may have been started anew.
    pub fn may_fall(&self) -> bool {
        self.fates.falls || self.fates.failures || self.fates.rot || self.fates.rots_within_parity()
    }

    /// Whether the vault may refuse an honest agent.
    pub fn may_fail(&self) -> bool {
        self.fates.failures || self.promises().ever_damaged
    }

    /// Sets the vault's clock to the world's time.
    pub fn tick(&self) {
        let mut state = self.state.lock().unwrap();
        state.deliveries += 1;
        assert!(
            state.deliveries < 50_000,
            "the world does not come to an end"
        );
        self.machine.boot.set(self.now());
        let now = BEGIN + self.now() as i64 + state.clock_off;
        relevo_wire::simulation::set_clock(Timestamp::from_millis(now));
    }

    /// Somebody sets the vault's wall clock.
    pub fn jump_clock(&self) {
        let days = self.roll(4000) as i64 - 2000;
        self.note(format_args!("the wall clock jumps by {days} days"));
        self.state.lock().unwrap().clock_off = days * 86_400_000;
    }

    /// From now on nothing befalls anybody.
    pub fn calm_down(&self) {
        self.state.lock().unwrap().calm = true;
        self.machine.disk.calm();
        self.machine.disk.set_room(None);
    }

    /// Runs something beside the rest; the turn waits for it.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.lock().unwrap().push(tokio::spawn(task));
    }

    /// Waits until nothing runs.
    pub async fn settle(&self) {
        loop {
            let Some(task) = self.tasks.lock().unwrap().pop() else {
                return;
            };
            if let Err(error) = task.await {
                std::panic::resume_unwind(error.into_panic());
            }
        }
    }

    /// A commit is about to be sent.
    pub fn asks_for(&self, server: usize, manifest: &SealedManifest, image: &Arc<Vec<Image>>) {
        let point = manifest.public().unwrap().point;
        let asked = Promise {
            server,
            image: image.clone(),
            manifest: manifest.clone(),
            state: State::Asked,
            held: Hold::Free,
            locked_until: match self.fates.locked_days {
                0 => 0,
                days => self.now() + days * 86_400_000,
            },
        };
        self.promises().points.entry(point).or_insert(asked);
    }

    /// The vault answered this stream, a commit, with yes.
    pub fn promised(&self, stream: &[u8]) {
        let request = stream.get(4..).map(frame::decode::<Request>);
        let Some(Ok(Request::Commit { manifest, .. })) = request else {
            panic!("the vault acknowledges a commit that nobody sent");
        };
        let point = manifest.public().unwrap().point;
        let mut promises = self.promises();
        let promise = promises.points.get_mut(&point);
        let promise = promise.unwrap_or_else(|| panic!("a point out of nothing: {point}"));
        match promise.state {
            State::Asked => promise.state = State::Acknowledged,
            // Asked twice, it is answered twice; asked after its deletion, it would be back.
            State::Acknowledged | State::DeletionAsked => {}
            State::Deleted => panic!("a deleted point is committed again: {point}"),
        }
    }

    /// The vault's process is gone, with all connections; somebody starts it again.
    pub fn vault_fell(self: &Arc<Self>) {
        if !self.machine.is_up() {
            return;
        }
        self.machine.fall();
        for server in 0..self.servers.len() {
            self.line(server).cut();
        }
        let end = match self.once_in(2) {
            true => End::Killed,
            false => End::PowerCut,
        };
        let pause = Duration::from_millis(self.roll(4000));
        self.note(format_args!(
            "the vault falls ({end:?}), up again in {pause:?}"
        ));
        let world = self.clone();
        self.spawn(async move {
            sleep(pause).await;
            world.start_again(end, None, true);
        });
    }

    /// Starts a vault that fell, and looks whether all that was promised is there.
    pub fn start_again(self: &Arc<Self>, end: End, fate: Option<CatalogueFate>, faults: bool) {
        self.tick();
        self.machine.disk.set_room(None);
        self.machine.end(end);
        let mut dice = self.dice().clone();
        let fate = self.machine.catalogue.lock().unwrap().age(&mut dice, fate);
        let findings = self.machine.start(&mut dice, faults);
        *self.dice() = dice;
        let mut shown: Vec<String> = findings.iter().map(|f| f.to_string()).collect();
        shown.sort();
        self.note(format_args!(
            "the vault is up, catalogue {fate:?}: {shown:?}"
        ));
        self.judge(&findings, fate);
        if self.fates.heals && self.promises().ever_damaged {
            self.heal_first();
        }
        self.check("after a start");
        self.plan_faults();
    }

    /// What the disk does next.
    pub fn plan_faults(&self) {
        let disk = &self.machine.disk;
        disk.calm();
        if self.state.lock().unwrap().calm {
            return;
        }
        if self.fates.falls && !self.once_in(3) {
            disk.plan(self.roll(60), Fault::Crash);
        } else if self.fates.failures {
            self.plan_failure();
        }
    }

    /// The disk is full, or fails once, or from some moment on.
    pub fn plan_failure(&self) {
        let fault = [Fault::Full, Fault::Broken, Fault::Failing][self.roll(3) as usize];
        self.machine.disk.plan(self.roll(30), fault);
    }

    /// Perhaps the disk fails in the midst of what is done next.
    pub fn plan_trouble(&self, within: u64) {
        if self.is_stormy() && self.fates.falls && self.once_in(2) {
            self.machine.disk.plan(self.roll(within), Fault::Crash);
        } else if self.is_stormy() && self.fates.failures && self.once_in(2) {
            self.plan_failure();
        }
    }

    /// True until the last check.
    pub fn is_stormy(&self) -> bool {
        !self.state.lock().unwrap().calm
    }

    /// The vault's wall clock is later than it ever was.
    pub fn clock_ahead(&self) {
        self.state.lock().unwrap().clock_off = 2001 * 86_400_000;
    }
}
