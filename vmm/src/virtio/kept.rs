//! A device that outlives the virtual machine it is in: on a reset a new machine gets it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::device::{ActivateError, Activation, DeviceKind, VirtioDevice};

/// Shares a device between whoever keeps it and the machine that uses it now. Clones are the
/// same device; only one of them may be on a bus.
#[derive(Clone)]
pub struct KeptDevice(Arc<Mutex<dyn VirtioDevice>>);

impl KeptDevice {
    /// Keeps `device`.
    pub fn new(device: impl VirtioDevice + 'static) -> Self {
        Self(Arc::new(Mutex::new(device)))
    }

    fn lock(&self) -> MutexGuard<'_, dyn VirtioDevice + 'static> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl VirtioDevice for KeptDevice {
    fn kind(&self) -> DeviceKind {
        self.lock().kind()
    }

    fn queue_sizes(&self) -> Vec<u16> {
        self.lock().queue_sizes()
    }

    fn features(&self) -> u64 {
        self.lock().features()
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        self.lock().read_config(offset, data);
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        self.lock().write_config(offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        self.lock().activate(activation)
    }

    fn reset(&mut self) {
        self.lock().reset();
    }
}
