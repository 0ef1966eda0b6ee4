//! Memory that is shared with a program in the kernel: a map's words.

use std::io;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// A map of 64-bit words, mapped.
pub struct SharedWords {
    address: NonNull<AtomicU64>,
    words: usize,
    bytes: usize,
}

// SAFETY: the memory stays mapped until this is dropped, and is reached as atomic words only.
unsafe impl Send for SharedWords {}
// SAFETY: as above; atomics may be shared.
unsafe impl Sync for SharedWords {}

impl SharedWords {
    /// Maps the first `words` words of a map.
    pub fn map(map: impl AsFd, words: usize) -> io::Result<Self> {
        let bytes = words * 8;
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: a new mapping, at an address that the kernel chooses; it fails when the map is
        // shorter.
        let address = unsafe {
            mmap(
                std::ptr::null_mut(),
                bytes,
                protection,
                flags,
                map.as_fd(),
                0,
            )
        }?;
        let address = NonNull::new(address.cast()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self {
            address,
            words,
            bytes,
        })
    }

    /// The words.
    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: `words` words are mapped there for as long as `self` lives, aligned to a page,
        // and nobody here reaches them but as atomics; the kernel's program does the same.
        unsafe { std::slice::from_raw_parts(self.address.as_ptr(), self.words) }
    }
}

impl Drop for SharedWords {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this length, and no reference to it outlives `self`.
        let unmapped = unsafe { munmap(self.address.as_ptr().cast(), self.bytes) };
        debug_assert!(unmapped.is_ok());
    }
}
