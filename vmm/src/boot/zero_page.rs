//! The boot parameters: Linux's `struct boot_params`, command line and memory map, and the
//! place of the initramfs.

use linux_loader::loader::bootparam::{boot_e820_entry, boot_params};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryError, GuestMemoryRegion};

use super::kernel::LoadedKernel;
use super::layout;
use crate::memory::{self, GuestMemory};

/// Boot loader id "undefined" of the boot protocol.
const LOADER_UNDEFINED: u8 = 0xff;
const E820_RAM: u32 = 1;
const E820_RESERVED: u32 = 2;
const PAGE: u64 = 4096;

/// Why the boot parameters could not be written.
#[derive(Debug, thiserror::Error)]
pub enum ZeroPageError {
    /// Kernel and initramfs do not fit together.
    #[error(
        "kernel and initramfs ({initrd_mib} MiB unpacked as far as the host does it) do not fit the guest's memory"
    )]
    NoRoom {
        /// Size of the initramfs, in MiB.
        initrd_mib: u64,
    },
    /// The command line is longer than the kernel takes.
    #[error("the kernel command line has {len} bytes, this kernel takes {max}")]
    LongCmdline {
        /// Its length.
        len: usize,
        /// The kernel's limit.
        max: usize,
    },
    /// A zero inside the command line would end it early.
    #[error("the kernel command line contains a zero byte")]
    ZeroInCmdline,
    /// Guest memory was not there.
    #[error("cannot write the boot parameters")]
    Memory(#[from] GuestMemoryError),
}

/// The memory map (e820): the first MiB as on every PC, then RAM.
pub fn memory_map(memory: &GuestMemory) -> Vec<boot_e820_entry> {
    let entry = |addr, end, kind| boot_e820_entry {
        addr,
        size: end - addr,
        r#type: kind,
    };
    let mut map = vec![
        entry(0, layout::EBDA, E820_RAM),
        entry(layout::EBDA, layout::HIMEM, E820_RESERVED),
    ];
    for region in memory.iter() {
        let start = region.start_addr().0.max(layout::HIMEM);
        map.push(entry(start, region.start_addr().0 + region.len(), E820_RAM));
    }
    map
}

/// Writes initramfs, command line and zero page.
pub fn write(
    memory: &GuestMemory,
    kernel: &LoadedKernel,
    cmdline: &str,
    initrd: &[u8],
) -> Result<(), ZeroPageError> {
    let max = match kernel.header.cmdline_size {
        0 => 255,
        n => (n as usize).min(layout::CMDLINE_MAX - 1),
    };
    if cmdline.len() > max {
        return Err(ZeroPageError::LongCmdline {
            len: cmdline.len(),
            max,
        });
    }
    if cmdline.bytes().any(|b| b == 0) {
        return Err(ZeroPageError::ZeroInCmdline);
    }
    let mut terminated = cmdline.as_bytes().to_vec();
    terminated.push(0);
    memory.write_slice(&terminated, GuestAddress(layout::CMDLINE))?;

    let mut params = boot_params {
        hdr: kernel.header,
        ..Default::default()
    };
    params.hdr.type_of_loader = LOADER_UNDEFINED;
    params.hdr.cmd_line_ptr = layout::CMDLINE as u32;
    params.acpi_rsdp_addr = layout::ACPI;
    if !initrd.is_empty() {
        let at = place_initrd(memory, kernel, initrd.len() as u64)?;
        memory.write_slice(initrd, GuestAddress(at))?;
        params.hdr.ramdisk_image = at as u32;
        params.hdr.ramdisk_size = initrd.len() as u32;
    }
    for (slot, entry) in params.e820_table.iter_mut().zip(memory_map(memory)) {
        *slot = entry;
        params.e820_entries += 1;
    }
    memory.write_obj(params, GuestAddress(layout::ZERO_PAGE))?;
    Ok(())
}

/// As high in low RAM as the kernel allows, so that the kernel has room to grow.
fn place_initrd(
    memory: &GuestMemory,
    kernel: &LoadedKernel,
    len: u64,
) -> Result<u64, ZeroPageError> {
    let low_end = memory::low_len(memory);
    let allowed = match u64::from(kernel.header.initrd_addr_max) {
        0 => 0x37ff_ffff,
        max => max,
    };
    low_end
        .min(allowed + 1)
        .checked_sub(len)
        .map(|at| at & !(PAGE - 1))
        .filter(|at| *at >= kernel.end.next_multiple_of(PAGE))
        .ok_or(ZeroPageError::NoRoom {
            initrd_mib: len >> 20,
        })
}

#[cfg(test)]
#[path = "zero_page_test.rs"]
mod tests;
