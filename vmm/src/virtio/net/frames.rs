//! Frames on their way between a tap and the driver's buffers.

use std::fs::File;
use std::io::{self, Read};

use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};

use crate::buffers::Buffers;
use crate::memory::GuestMemory;
use crate::virtio::LogBudget;
use crate::virtio::chain::split;
use crate::virtio::worker::ServiceError;

/// Length of `struct virtio_net_hdr_v1`.
pub(super) const HEADER_SIZE: usize = 12;
const NUM_BUFFERS: usize = 10;
/// The longest frame with offloads (64 KiB of IP and an Ethernet header), with header.
const LONGEST: usize = HEADER_SIZE + 65_550;

static COMPLAINTS: LogBudget = LogBudget::new();

/// Holds the frame that was taken from the tap until the driver has buffers for it.
pub(super) struct Receiver {
    mergeable: bool,
    frame: Box<[u8]>,
    len: usize,
}

impl Receiver {
    /// `mergeable`: a frame may be spread over several chains.
    pub(super) fn new(mergeable: bool) -> Self {
        Self {
            mergeable,
            frame: vec![0; LONGEST].into(),
            len: 0,
        }
    }

    /// Makes sure that there is a frame, from `tap` if need be; `false` if there is none.
    pub(super) fn fetch(&mut self, tap: &File) -> io::Result<bool> {
        while self.len < HEADER_SIZE {
            match (&*tap).read(&mut self.frame) {
                Ok(len) => self.len = len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                // For one, the interface was removed: nothing comes any more.
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Gives the frame to the driver; `false`, with the frame kept, if it has too few
    /// buffers now. A frame that no buffer can ever hold is dropped.
    pub(super) fn deliver(
        &mut self,
        queue: &mut Queue,
        memory: &GuestMemory,
    ) -> Result<bool, ServiceError> {
        let mut taken: Vec<(u16, Buffers<'_>)> = Vec::new();
        let mut room = 0;
        while room < self.len && (self.mergeable || taken.is_empty()) {
            let Some(chain) = queue.iter(memory)?.next() else {
                for _ in &taken {
                    queue.go_to_previous_position();
                }
                return Ok(false);
            };
            let head = chain.head_index();
            let buffers = match split(memory, chain) {
                Ok((_, writable)) => writable,
                Err(error) => {
                    if COMPLAINTS.allows() {
                        tracing::warn!(%error, "a network driver sent a broken chain");
                    }
                    Buffers::default()
                }
            };
            room += buffers.len();
            taken.push((head, buffers));
        }
        let fits = room >= self.len;
        if !fits {
            tracing::debug!(self.len, room, "a frame does not fit the driver's buffer");
        }
        let buffers = if self.mergeable {
            taken.len() as u16
        } else {
            1
        };
        self.frame[NUM_BUFFERS..HEADER_SIZE].copy_from_slice(&buffers.to_le_bytes());
        let mut rest = &self.frame[..if fits { self.len } else { 0 }];
        for (head, mut buffers) in taken {
            let written = buffers.write_from(rest);
            rest = &rest[written..];
            queue.add_used(memory, head, written as u32)?;
        }
        self.len = 0;
        Ok(true)
    }
}

/// Sends the frame in `chain`; what the host does not take is lost, as on a wire.
pub(super) fn send(tap: &File, memory: &GuestMemory, chain: DescriptorChain<&GuestMemory>) {
    let mut frame = match split(memory, chain) {
        Ok((readable, _)) => readable,
        Err(error) => {
            if COMPLAINTS.allows() {
                tracing::warn!(%error, "a network driver sent a broken chain");
            }
            return;
        }
    };
    if !(HEADER_SIZE..=LONGEST).contains(&frame.len()) {
        tracing::debug!(
            len = frame.len(),
            "a network driver sent a frame of impossible length"
        );
        return;
    }
    if let Err(error) = frame.send_to(tap) {
        tracing::debug!(%error, "the tap did not take a frame");
    }
}
