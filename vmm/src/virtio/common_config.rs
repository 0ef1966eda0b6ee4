//! The common configuration registers (section 4.1.4.3) and the device status (2.1).
//!
//! No I/O here: a write answers with the [`Effect`] that the transport must bring about.

use virtio_queue::{Queue, QueueT};
use vm_memory::GuestAddress;

use super::device::VIRTIO_F_VERSION_1;
use super::interrupt::Interrupt;
use super::log_budget::LogBudget;

/// Length of the registers, in bytes.
pub const COMMON_CONFIG_SIZE: usize = 60;

const FEATURES_OK: u8 = 8;
const DRIVER_OK: u8 = 4;
const NEEDS_RESET: u8 = 64;
/// What a driver may set: ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, FAILED.
const DRIVER_BITS: u8 = 0x8F;

const DEVICE_FEATURE_SELECT: u64 = 0;
const DRIVER_FEATURE_SELECT: u64 = 8;
const DRIVER_FEATURE: u64 = 12;
const CONFIG_VECTOR: u64 = 16;
const STATUS: u64 = 20;
const QUEUE_SELECT: u64 = 22;
const QUEUE_SIZE: u64 = 24;
const QUEUE_VECTOR: u64 = 26;
const QUEUE_ENABLE: u64 = 28;
const QUEUE_DESC: u64 = 32;
const QUEUE_DESC_HIGH: u64 = 36;
const QUEUE_DRIVER: u64 = 40;
const QUEUE_DRIVER_HIGH: u64 = 44;
const QUEUE_DEVICE: u64 = 48;
const QUEUE_DEVICE_HIGH: u64 = 52;
const QUEUE_END: u64 = 56;

static COMPLAINTS: LogBudget = LogBudget::new();

/// What a write to the registers asks of the transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// Reset the device.
    Reset,
    /// Start the device: the driver is ready.
    Activate,
}

/// The registers of one device.
pub struct CommonConfig {
    offered: u64,
    accepted: u64,
    device_feature_select: u32,
    driver_feature_select: u32,
    status: u8,
    queue_select: u16,
    queues: Vec<Queue>,
    interrupt: Interrupt,
}

impl CommonConfig {
    /// Registers of a device with queues of at most `sizes`, offering `features`.
    pub fn new(
        features: u64,
        sizes: &[u16],
        interrupt: Interrupt,
    ) -> Result<Self, virtio_queue::Error> {
        Ok(Self {
            offered: features | VIRTIO_F_VERSION_1,
            accepted: 0,
            device_feature_select: 0,
            driver_feature_select: 0,
            status: 0,
            queue_select: 0,
            queues: sizes
                .iter()
                .map(|s| Queue::new(*s))
                .collect::<Result<_, _>>()?,
            interrupt,
        })
    }

    /// The features both sides agreed on.
    pub fn features(&self) -> u64 {
        self.accepted
    }

    /// The queues as the driver has set them up.
    pub fn queues(&self) -> &[Queue] {
        &self.queues
    }

    /// Whether the driver has said that it is ready.
    pub fn driver_ok(&self) -> bool {
        self.status & DRIVER_OK != 0
    }

    /// Back to the state after power-on.
    pub fn reset(&mut self) {
        self.accepted = 0;
        self.device_feature_select = 0;
        self.driver_feature_select = 0;
        self.status = 0;
        self.queue_select = 0;
        self.queues.iter_mut().for_each(QueueT::reset);
    }

    /// Fills `data` from the registers.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        super::device::copy_config(&self.snapshot(), offset, data);
    }

    /// Takes a write to a register; any but the register's own width is ignored.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Effect {
        match *data {
            [value] if offset == STATUS => return self.write_status(value),
            [a, b] => self.write_u16(offset, u16::from_le_bytes([a, b])),
            [a, b, c, d] => self.write_u32(offset, u32::from_le_bytes([a, b, c, d])),
            [a, b, c, d, e, f, g, h]
                if (QUEUE_DESC..QUEUE_END).contains(&offset) && offset.is_multiple_of(8) =>
            {
                self.write_u32(offset, u32::from_le_bytes([a, b, c, d]));
                self.write_u32(offset + 4, u32::from_le_bytes([e, f, g, h]));
            }
            _ => tracing::debug!(
                offset,
                len = data.len(),
                "odd write to a virtio configuration"
            ),
        }
        Effect::None
    }

    fn write_status(&mut self, value: u8) -> Effect {
        if value == 0 {
            return Effect::Reset;
        }
        let before = self.status;
        self.status |= value & DRIVER_BITS;
        let newly = self.status & !before;
        if newly & FEATURES_OK != 0 && !self.features_acceptable() {
            self.status &= !FEATURES_OK;
        }
        if newly & DRIVER_OK != 0 {
            if self.status & FEATURES_OK != 0 {
                return Effect::Activate;
            }
            if COMPLAINTS.allows() {
                tracing::warn!("a virtio driver started without agreeing on features");
            }
            self.status &= !DRIVER_OK;
        }
        Effect::None
    }

    fn features_acceptable(&self) -> bool {
        self.accepted & !self.offered == 0 && self.accepted & VIRTIO_F_VERSION_1 != 0
    }

    fn write_u16(&mut self, offset: u64, value: u16) {
        match offset {
            CONFIG_VECTOR => self.interrupt.set_config_vector(value),
            QUEUE_SELECT => self.queue_select = value,
            QUEUE_VECTOR => self.interrupt.set_queue_vector(self.queue_select, value),
            QUEUE_SIZE => {
                if let Some(queue) = self.idle_queue()
                    && let Err(error) = queue.try_set_size(value)
                    && COMPLAINTS.allows()
                {
                    tracing::warn!(value, %error, "a virtio driver asked for an impossible queue");
                }
            }
            QUEUE_ENABLE if value == 1 => {
                if let Some(queue) = self.idle_queue() {
                    queue.set_ready(true);
                }
            }
            _ => {}
        }
    }

    fn write_u32(&mut self, offset: u64, value: u32) {
        match offset {
            DEVICE_FEATURE_SELECT => self.device_feature_select = value,
            DRIVER_FEATURE_SELECT => self.driver_feature_select = value,
            DRIVER_FEATURE if self.status & FEATURES_OK == 0 => {
                let shift = match self.driver_feature_select {
                    0 => 0,
                    1 => 32,
                    _ => return,
                };
                self.accepted &= !(0xFFFF_FFFF << shift);
                self.accepted |= u64::from(value) << shift;
            }
            QUEUE_DESC..QUEUE_END => self.write_address(offset, value),
            _ => {}
        }
    }

    fn write_address(&mut self, offset: u64, value: u32) {
        let Some(queue) = self.idle_queue() else {
            return;
        };
        let merge = |old: u64| {
            let value = u64::from(value);
            GuestAddress(match offset % 8 {
                0 => old & !0xFFFF_FFFF | value,
                _ => old & 0xFFFF_FFFF | value << 32,
            })
        };
        let result = match offset {
            QUEUE_DESC | QUEUE_DESC_HIGH => {
                queue.try_set_desc_table_address(merge(queue.desc_table()))
            }
            QUEUE_DRIVER | QUEUE_DRIVER_HIGH => {
                queue.try_set_avail_ring_address(merge(queue.avail_ring()))
            }
            QUEUE_DEVICE | QUEUE_DEVICE_HIGH => {
                queue.try_set_used_ring_address(merge(queue.used_ring()))
            }
            _ => return,
        };
        if let Err(error) = result
            && COMPLAINTS.allows()
        {
            tracing::warn!(offset, %error, "a virtio driver misplaced a virtqueue");
        }
    }

    /// The selected queue, if it may still be changed.
    fn idle_queue(&mut self) -> Option<&mut Queue> {
        if self.driver_ok() {
            return None;
        }
        self.queues
            .get_mut(usize::from(self.queue_select))
            .filter(|queue| !queue.ready())
    }

    fn snapshot(&self) -> [u8; COMMON_CONFIG_SIZE] {
        let mut bytes = [0; COMMON_CONFIG_SIZE];
        let mut put = |at: u64, value: &[u8]| {
            let at = at as usize;
            bytes[at..at + value.len()].copy_from_slice(value);
        };
        let half = |features: u64, select: u32| match select {
            0 => features as u32,
            1 => (features >> 32) as u32,
            _ => 0,
        };
        let status = if self.interrupt.needs_reset() {
            self.status | NEEDS_RESET
        } else {
            self.status
        };
        put(0, &self.device_feature_select.to_le_bytes());
        put(
            4,
            &half(self.offered, self.device_feature_select).to_le_bytes(),
        );
        put(8, &self.driver_feature_select.to_le_bytes());
        put(
            12,
            &half(self.accepted, self.driver_feature_select).to_le_bytes(),
        );
        put(16, &self.interrupt.config_vector().to_le_bytes());
        put(18, &(self.queues.len() as u16).to_le_bytes());
        put(20, &[status]);
        put(22, &self.queue_select.to_le_bytes());
        put(
            26,
            &self.interrupt.queue_vector(self.queue_select).to_le_bytes(),
        );
        if let Some(queue) = self.queues.get(usize::from(self.queue_select)) {
            put(24, &queue.size().to_le_bytes());
            put(28, &u16::from(queue.ready()).to_le_bytes());
            put(30, &self.queue_select.to_le_bytes());
            put(32, &queue.desc_table().to_le_bytes());
            put(40, &queue.avail_ring().to_le_bytes());
            put(48, &queue.used_ring().to_le_bytes());
            put(56, &self.queue_select.to_le_bytes());
        }
        bytes
    }
}

#[cfg(test)]
#[path = "common_config_test.rs"]
mod tests;
