//! A virtio device as a PCI function (section 4.1), modern interface only.
//!
//! One BAR of 32 KiB holds everything: common configuration, ISR, device configuration,
//! doorbells, MSI-X table and pending bits, each in a page of its own.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use virtio_queue::{Queue, QueueT};
use vmm_sys_util::eventfd::EventFd;

use super::common_config::{COMMON_CONFIG_SIZE, CommonConfig, Effect};
use super::device::{ActivateError, Activation, ActiveQueue, VIRTIO_F_EVENT_IDX, VirtioDevice};
use super::interrupt::Interrupt;
use super::log_budget::LogBudget;
use crate::memory::{GuestMemory, PCI_MMIO_LEN, PCI_MMIO_START};
use crate::pci::{ConfigSpace, Identity, MAX_VECTORS, Msix, PciFunction, VmEvents};

/// Size of a function's only BAR, in bytes.
pub const BAR_SIZE: u32 = 0x8000;

const COMMON: u64 = 0x0000;
const ISR: u64 = 0x1000;
const DEVICE: u64 = 0x2000;
const NOTIFY: u64 = 0x3000;
const TABLE: u64 = 0x4000;
const PENDING: u64 = 0x5000;
const PAGE: u64 = 0x1000;
/// Bytes between the doorbells of two queues.
const NOTIFY_MULTIPLIER: u64 = 4;
/// Most queues a device can have here: one vector remains for the configuration.
const MAX_QUEUES: u16 = MAX_VECTORS - 1;

const VENDOR: u16 = 0x1AF4;
const DEVICE_BASE: u16 = 0x1040;
const CAPABILITY_VENDOR: u8 = 0x09;
const CAPABILITY_MSIX: u8 = 0x11;

static COMPLAINTS: LogBudget = LogBudget::new();

/// A virtio device on the PCI bus.
pub struct VirtioPciFunction {
    config: ConfigSpace,
    msix_control: usize,
    window: usize,
    common: CommonConfig,
    device: Box<dyn VirtioDevice>,
    memory: GuestMemory,
    msix: Msix,
    interrupt: Interrupt,
    kicks: Vec<EventFd>,
    events: Arc<dyn VmEvents>,
    /// Base of the BAR that the doorbells are registered for.
    doorbells_at: Option<u64>,
    active: bool,
}

impl VirtioPciFunction {
    /// `device`, working on `memory`, with its BAR at `base`.
    pub fn new(
        device: Box<dyn VirtioDevice>,
        memory: GuestMemory,
        events: Arc<dyn VmEvents>,
        base: u32,
    ) -> io::Result<Self> {
        let mut sizes = device.queue_sizes();
        sizes.truncate(usize::from(MAX_QUEUES));
        let msix = Msix::new(events.clone(), sizes.len() as u16 + 1)?;
        let interrupt = Interrupt::new(msix.lines()?, sizes.len());
        let common = CommonConfig::new(device.features(), &sizes, interrupt.clone())
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
        let kicks = sizes
            .iter()
            .map(|_| EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC))
            .collect::<io::Result<_>>()?;

        let kind = device.kind();
        let mut config = ConfigSpace::new(Identity {
            vendor: VENDOR,
            device: DEVICE_BASE + kind as u16,
            revision: 1,
            class: kind.pci_class(),
            subsystem_vendor: VENDOR,
            subsystem: 0x40 + kind as u16,
        });
        config.set_memory_bar(0, base, BAR_SIZE);
        let doorbells = sizes.len() as u64 * NOTIFY_MULTIPLIER;
        add_region(&mut config, 1, COMMON, COMMON_CONFIG_SIZE as u64, &[], &[]);
        let multiplier = (NOTIFY_MULTIPLIER as u32).to_le_bytes();
        add_region(&mut config, 2, NOTIFY, doorbells, &multiplier, &[]);
        add_region(&mut config, 3, ISR, 1, &[], &[]);
        add_region(&mut config, 4, DEVICE, PAGE, &[], &[]);
        // The last one is a window into the BAR for firmware that cannot map it (4.1.4.9):
        // BAR, offset, length and data may be written.
        let mut writable = [0xFF; 18];
        writable[..2].fill(0);
        writable[3..6].fill(0);
        let window = add_region(&mut config, 5, 0, 0, &[0; 4], &writable);
        let msix_control = add_msix(&mut config, &msix);

        Ok(Self {
            config,
            msix_control,
            window,
            common,
            device,
            memory,
            msix,
            interrupt,
            kicks,
            events,
            doorbells_at: None,
            active: false,
        })
    }

    /// Does what a write to the common configuration asked for.
    fn bring_about(&mut self, effect: Effect) {
        match effect {
            Effect::None => {}
            Effect::Reset => self.reset(),
            Effect::Activate => {
                if let Err(error) = self.activate() {
                    self.interrupt.demand_reset();
                    if !COMPLAINTS.allows() {
                        return;
                    }
                    let cause = std::error::Error::source(&error).map(ToString::to_string);
                    tracing::error!(kind = ?self.device.kind(), %error, cause, "device cannot start");
                }
            }
        }
    }

    fn activate(&mut self) -> Result<(), ActivateError> {
        let features = self.common.features();
        let mut queues = Vec::new();
        for (index, configured) in self.common.queues().iter().enumerate() {
            let index = index as u16;
            if !configured.ready() {
                continue;
            }
            let mut queue =
                Queue::try_from(configured.state()).map_err(|_| ActivateError::Queue(index))?;
            queue.set_event_idx(features & VIRTIO_F_EVENT_IDX != 0);
            if !queue.is_valid(&self.memory) || queue.avail_ring() == 0 {
                return Err(ActivateError::Queue(index));
            }
            let kick = self.kicks[usize::from(index)].try_clone()?;
            queues.push(ActiveQueue { index, queue, kick });
        }
        self.active = true;
        self.device.activate(Activation {
            memory: self.memory.clone(),
            features,
            queues,
            interrupt: self.interrupt.clone(),
        })?;
        tracing::debug!(kind = ?self.device.kind(), features = format_args!("{features:#x}"), "device started");
        // A driver may have filled a queue before it was ready.
        for kick in &self.kicks {
            kick.write(1)?;
        }
        Ok(())
    }

    fn reset(&mut self) {
        if self.active {
            self.device.reset();
            self.active = false;
        }
        for kick in &self.kicks {
            // An empty counter is not an error here.
            let _ = kick.read();
        }
        self.interrupt.reset();
        self.msix.clear_pending();
        self.common.reset();
    }

    /// Registers the doorbells with KVM where the BAR is now.
    fn follow_bar(&mut self) {
        let base = self.decoded().map(|range| range.start);
        if base == self.doorbells_at {
            return;
        }
        if let Some(old) = self.doorbells_at.take() {
            self.each_doorbell(old, |events, kick, at| events.detach_doorbell(kick, at));
        }
        if let Some(new) = base {
            self.each_doorbell(new, |events, kick, at| events.attach_doorbell(kick, at));
        }
        self.doorbells_at = base;
    }

    fn each_doorbell(
        &self,
        base: u64,
        act: impl Fn(&dyn VmEvents, &EventFd, u64) -> io::Result<()>,
    ) {
        for (index, kick) in self.kicks.iter().enumerate() {
            let at = base + NOTIFY + index as u64 * NOTIFY_MULTIPLIER;
            if let Err(error) = act(&*self.events, kick, at)
                && COMPLAINTS.allows()
            {
                // The doorbell still works, by an exit to this process.
                tracing::warn!(index, %error, "doorbell is not in the kernel");
            }
        }
    }

    /// Offset in the BAR and length that the window points at, if they make sense.
    fn window_target(&self) -> Option<(u64, usize)> {
        let offset = u64::from(self.config.u32_at(self.window + 8));
        let len = self.config.u32_at(self.window + 12) as usize;
        let bar = self.config.u16_at(self.window + 4) & 0xFF;
        let fits = offset + len as u64 <= u64::from(BAR_SIZE) && offset % len.max(1) as u64 == 0;
        (bar == 0 && matches!(len, 1 | 2 | 4) && fits).then_some((offset, len))
    }

    fn window_data(&self) -> Range<usize> {
        self.window + 16..self.window + 20
    }
}

fn overlaps(offset: usize, len: usize, range: &Range<usize>) -> bool {
    offset < range.end && offset.saturating_add(len) > range.start
}

impl PciFunction for VirtioPciFunction {
    fn read_config(&mut self, offset: usize, data: &mut [u8]) {
        let window = self.window_data();
        if overlaps(offset, data.len(), &window)
            && let Some((at, len)) = self.window_target()
        {
            let mut value = [0; 4];
            self.read_bar(at, &mut value[..len]);
            self.config.put(window.start, &value);
        }
        self.config.read(offset, data);
    }

    fn write_config(&mut self, offset: usize, data: &[u8]) {
        self.config.write(offset, data);
        let control = self.msix_control..self.msix_control + 2;
        if overlaps(offset, data.len(), &control) {
            self.msix.set_control(self.config.u16_at(control.start));
            self.interrupt.set_msix(self.msix.enabled());
        }
        let window = self.window_data();
        if overlaps(offset, data.len(), &window)
            && let Some((at, len)) = self.window_target()
        {
            let value = self.config.u32_at(window.start).to_le_bytes();
            self.write_bar(at, &value[..len]);
        }
        self.follow_bar();
    }

    fn decoded(&self) -> Option<Range<u64>> {
        let base = u64::from(self.config.memory_bar(0));
        let end = base + u64::from(BAR_SIZE);
        let inside = base >= PCI_MMIO_START && end <= PCI_MMIO_START + PCI_MMIO_LEN;
        (self.config.memory_enabled() && inside).then_some(base..end)
    }

    fn read_bar(&mut self, offset: u64, data: &mut [u8]) {
        let within = offset % PAGE;
        match offset - within {
            COMMON => self.common.read(within, data),
            ISR => {
                data.fill(0);
                if within == 0
                    && let Some(first) = data.first_mut()
                {
                    *first = self.interrupt.take_isr();
                }
            }
            DEVICE => self.device.read_config(within, data),
            TABLE => self.msix.read_table(within, data),
            PENDING => self.msix.read_pending(within, data),
            _ => data.fill(0),
        }
    }

    fn write_bar(&mut self, offset: u64, data: &[u8]) {
        let within = offset % PAGE;
        match offset - within {
            COMMON => {
                let effect = self.common.write(within, data);
                self.bring_about(effect);
            }
            DEVICE => self.device.write_config(within, data),
            NOTIFY => {
                if let Some(kick) = self.kicks.get((within / NOTIFY_MULTIPLIER) as usize)
                    && let Err(error) = kick.write(1)
                    && error.kind() != io::ErrorKind::WouldBlock
                {
                    tracing::error!(%error, "cannot ring a doorbell");
                }
            }
            TABLE => self.msix.write_table(within, data),
            _ => {}
        }
    }
}

impl Drop for VirtioPciFunction {
    fn drop(&mut self) {
        self.reset();
        if let Some(base) = self.doorbells_at.take() {
            self.each_doorbell(base, |events, kick, at| events.detach_doorbell(kick, at));
        }
    }
}

/// Appends a virtio capability (4.1.4) for a part of the BAR.
fn add_region(
    config: &mut ConfigSpace,
    kind: u8,
    offset: u64,
    len: u64,
    rest: &[u8],
    writable: &[u8],
) -> usize {
    let mut body = vec![(16 + rest.len()) as u8, kind, 0, 0, 0, 0];
    body.extend_from_slice(&(offset as u32).to_le_bytes());
    body.extend_from_slice(&(len as u32).to_le_bytes());
    body.extend_from_slice(rest);
    config.add_capability(CAPABILITY_VENDOR, &body, writable)
}

/// Appends the MSI-X capability and returns the offset of its message control register.
fn add_msix(config: &mut ConfigSpace, msix: &Msix) -> usize {
    let mut body = msix.control().to_le_bytes().to_vec();
    body.extend_from_slice(&(TABLE as u32).to_le_bytes());
    body.extend_from_slice(&(PENDING as u32).to_le_bytes());
    let mut writable = [0; 10];
    writable[1] = 0xC0;
    config.add_capability(CAPABILITY_MSIX, &body, &writable) + 2
}

#[cfg(test)]
#[path = "pci_function_test.rs"]
mod tests;
