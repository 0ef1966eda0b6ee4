//! Guest-physical memory: where RAM lies and how it is shared.
//!
//! RAM is one memfd, mapped shared, so that a vhost-user back end can map the same pages.
//! It starts at 0 and leaves a hole from 3 GiB to 4 GiB for devices; the rest continues
//! at 4 GiB, at the file offset where the low part ended.

use std::ffi::CStr;
use std::fs::File;
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::Arc;

use vm_memory::{FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

/// The guest's RAM, as every device sees it.
pub type GuestMemory = vm_memory::GuestMemoryMmap<()>;

/// End of the RAM below the device hole (3 GiB).
pub const LOW_RAM_END: u64 = 0xC000_0000;
/// Start of the RAM above the device hole (4 GiB).
pub const HIGH_RAM_START: u64 = 0x1_0000_0000;
/// Start of the window for 32-bit PCI memory BARs.
pub const PCI_MMIO_START: u64 = 0xC000_0000;
/// Length of the window for 32-bit PCI memory BARs, in bytes.
pub const PCI_MMIO_LEN: u64 = 0x2000_0000;
/// The I/O APIC's register window.
pub const IOAPIC_START: u64 = 0xFEC0_0000;
/// The local APICs' register window.
pub const LAPIC_START: u64 = 0xFEE0_0000;
/// Three pages that KVM needs on Intel hosts for real-mode guests.
pub const KVM_TSS_START: u64 = 0xFFFB_D000;
/// One page that KVM needs on Intel hosts for unpaged guests.
pub const KVM_IDENTITY_MAP_START: u64 = 0xFFFB_C000;

/// Smallest RAM a kernel and an initramfs can be placed in, in MiB.
pub const MIN_MIB: u64 = 64;

/// Why the guest's RAM could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// Too little to boot anything.
    #[error("{mib} MiB of memory is too little (least: {MIN_MIB} MiB)")]
    TooSmall {
        /// What was asked for, in MiB.
        mib: u64,
    },
    /// More than an address can name.
    #[error("{mib} MiB of memory is more than can be addressed")]
    TooLarge {
        /// What was asked for, in MiB.
        mib: u64,
    },
    /// The kernel refused the memory file.
    #[error("cannot make a memory file of {mib} MiB")]
    Memfd {
        /// What was asked for, in MiB.
        mib: u64,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// The file could not be mapped.
    #[error("cannot map the guest's memory")]
    Map(#[from] vm_memory::mmap::FromRangesError),
}

/// The guest-physical ranges that `mib` MiB of RAM occupy.
pub fn ranges(mib: u64) -> Result<Vec<(GuestAddress, usize)>, MemoryError> {
    if mib < MIN_MIB {
        return Err(MemoryError::TooSmall { mib });
    }
    // 46 bits of guest-physical address: what every CPU with KVM offers at least.
    let bytes = mib
        .checked_mul(1 << 20)
        .filter(|b| *b < 1 << 46)
        .ok_or(MemoryError::TooLarge { mib })?;
    let low = bytes.min(LOW_RAM_END);
    let mut ranges = vec![(GuestAddress(0), low as usize)];
    if bytes > low {
        ranges.push((GuestAddress(HIGH_RAM_START), (bytes - low) as usize));
    }
    Ok(ranges)
}

/// Makes `mib` MiB of zeroed guest RAM behind one memfd.
///
/// Pages are taken from the host only when they are first touched.
pub fn create(mib: u64) -> Result<GuestMemory, MemoryError> {
    let ranges = ranges(mib)?;
    let memfd = |source| MemoryError::Memfd { mib, source };
    let file = Arc::new(memfd_create(c"guest-ram").map_err(memfd)?);
    file.set_len(mib << 20).map_err(memfd)?;
    let mut offset = 0;
    let with_files = ranges.into_iter().map(|(base, len)| {
        let at = FileOffset::from_arc(file.clone(), offset);
        offset += len as u64;
        (base, len, Some(at))
    });
    Ok(GuestMemory::from_ranges_with_files(with_files)?)
}

/// Bytes of RAM from 0 to the device hole: what a kernel and its initramfs must fit.
pub fn low_len(memory: &GuestMemory) -> u64 {
    memory.iter().next().map_or(0, GuestMemoryRegion::len)
}

fn memfd_create(name: &CStr) -> std::io::Result<File> {
    // SAFETY: `name` is a valid C string for the length of the call.
    let fd = unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: the call above succeeded, so `fd` is open and nothing else owns it.
    Ok(File::from(unsafe { OwnedFd::from_raw_fd(fd) }))
}

#[cfg(test)]
#[path = "memory_test.rs"]
mod tests;
