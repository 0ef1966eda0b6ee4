//! A machine whose vCPUs run: orders to them, and the one place where it ends.

use std::io;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use kvm_ioctls::VmFd;

use crate::confinement::{ThreadKind, enter_thread};
use crate::devices::power::Power;
use crate::events::{Event, Notifier};
use crate::gate::{Gate, Order};
use crate::memory::GuestMemory;
use crate::pci::PciRoot;
use crate::vcpu::VcpuThread;
use crate::watches::Watching;
use crate::without_vtx::HEARTBEAT;

/// The vCPU threads and the gate before them.
pub struct Cpus {
    pub(super) gate: Arc<Gate>,
    pub(super) threads: Vec<VcpuThread>,
}

impl Cpus {
    /// Gives an order and waits until it is followed.
    pub fn order(&self, order: Order) {
        self.gate.set(order, || self.kick());
    }

    /// What the vCPUs were told last.
    pub fn current_order(&self) -> Order {
        self.gate.order()
    }

    fn kick(&self) {
        self.threads.iter().for_each(VcpuThread::kick);
    }

    /// Interrupts the vCPUs regularly, from a thread that ends with them.
    pub(super) fn beat(self: Arc<Self>) -> io::Result<JoinHandle<()>> {
        std::thread::Builder::new()
            .name("heartbeat".to_owned())
            .spawn(move || {
                enter_thread(ThreadKind::Device);
                while self.gate.order() != Order::Stop {
                    std::thread::sleep(HEARTBEAT);
                    self.kick();
                }
            })
    }
}

/// A machine whose vCPUs exist.
pub struct Running {
    pub(super) cpus: Arc<Cpus>,
    pub(super) heartbeat: Option<JoinHandle<()>>,
    pub(super) watching: Watching,
    pub(super) pci: PciRoot,
    pub(super) power: Arc<Mutex<Power>>,
    pub(super) notifier: Notifier,
    pub(super) events: Receiver<Event>,
    pub(super) _vm: Arc<VmFd>,
    pub(super) _memory: GuestMemory,
}

impl Running {
    /// The vCPUs, to give them orders.
    pub fn cpus(&self) -> Arc<Cpus> {
        self.cpus.clone()
    }

    /// The power registers, to press the button.
    pub fn power(&self) -> Arc<Mutex<Power>> {
        self.power.clone()
    }

    /// Whom to tell that the machine shall end.
    pub fn notifier(&self) -> Notifier {
        self.notifier.clone()
    }

    /// Waits for what ends the machine, then takes it apart: when this returns no vCPU and
    /// no virtqueue's thread runs, and no device touches the guest's memory any more. What
    /// the devices have open stays so, for the machine's next start.
    pub fn wait(self) -> Event {
        let event = self
            .events
            .recv()
            .unwrap_or_else(|_| Event::Failed("the machine vanished".to_owned()));
        self.cpus.order(Order::Stop);
        drop(self.watching);
        self.pci.shut_down();
        if let Some(heartbeat) = self.heartbeat {
            let _ = heartbeat.join();
        }
        if let Ok(cpus) = Arc::try_unwrap(self.cpus) {
            cpus.threads.into_iter().for_each(VcpuThread::join);
        }
        event
    }
}
