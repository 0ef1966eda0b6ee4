//! Loading a kernel: an ELF `vmlinux`, or a bzImage as distributions ship it.
//!
//! A bzImage is normally loaded as it is and unpacks itself. Where the guest's kernel mode
//! is slow, the payload is found by its setup header (`payload_offset`), unpacked on the
//! host, and the ELF file in it is loaded instead.

use std::io::Cursor;
use std::path::{Path, PathBuf};

use linux_loader::loader::bootparam::setup_header;
use linux_loader::loader::{BzImage, Elf, KernelLoader};
use vm_memory::{Address, GuestAddress, GuestMemoryBackend};

use super::unpack::{Packing, UnpackError, unpack};
use super::{ImageFile, layout};
use crate::memory::{GuestMemory, LOW_RAM_END};

/// Offset of the setup header in a bzImage.
const HEADER_AT: usize = 0x1f1;
/// `HdrS`, the header's magic.
const HEADER_MAGIC: u32 = 0x5372_6448;
/// Offset of the 64-bit entry behind the start of the protected-mode code.
const ENTRY_64: u64 = 0x200;
/// xloadflags: the kernel has the 64-bit entry.
const XLF_KERNEL_64: u16 = 1;
/// loadflags: the protected-mode code belongs at 1 MiB or above.
const LOADED_HIGH: u8 = 1;
/// What an ELF kernel without a header of its own is assumed to speak.
const ASSUMED_VERSION: u16 = 0x20c;

/// A kernel in guest memory.
#[derive(Debug, Clone, Copy)]
pub struct LoadedKernel {
    /// Where the first vCPU starts, in 64-bit mode.
    pub entry: GuestAddress,
    /// First address behind everything the kernel needs before it has a memory map.
    pub end: u64,
    /// The setup header to hand over in the zero page.
    pub header: setup_header,
}

/// Why a kernel could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The file could not be read.
    #[error("cannot read the kernel {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// Neither an ELF file nor a bzImage.
    #[error("{0} is neither an ELF kernel nor a bzImage")]
    UnknownFormat(PathBuf),
    /// A kernel for another kind of CPU, or from before 2.6.24/3.8.
    #[error("{path} has no 64-bit entry ({what})")]
    No64BitEntry {
        /// The file.
        path: PathBuf,
        /// What exactly is missing.
        what: &'static str,
    },
    /// The payload is not inside the file or is not packed in a known way.
    #[error("the packed kernel inside {0} was not found")]
    NoPayload(PathBuf),
    /// The payload cannot be unpacked.
    #[error("cannot unpack the kernel inside {path}")]
    Unpack {
        /// The file.
        path: PathBuf,
        /// The reason.
        #[source]
        source: UnpackError,
    },
    /// What it needs to start in reaches beyond the guest's memory.
    #[error("the kernel {path} needs memory up to {needed_mib} MiB")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Where its needs end, in MiB.
        needed_mib: u64,
    },
    /// It does not fit the guest's memory, or its headers contradict each other.
    #[error("cannot load {path} into the guest's memory")]
    Load {
        /// The file.
        path: PathBuf,
        /// The loader's reason.
        #[source]
        source: linux_loader::loader::Error,
    },
}

/// Loads the kernel in `file`; with `unpack_on_host`, a bzImage's payload directly.
pub fn load(
    memory: &GuestMemory,
    file: &ImageFile,
    unpack_on_host: bool,
) -> Result<LoadedKernel, KernelError> {
    let path = file.path();
    let read = |source| KernelError::Read {
        path: path.to_owned(),
        source,
    };
    let most = crate::memory::low_len(memory);
    let Some(image) = file.read_at_most(most).map_err(read)? else {
        let len = file.size().map_err(read)?;
        return Err(KernelError::TooLarge {
            path: path.to_owned(),
            needed_mib: len.div_ceil(1 << 20),
        });
    };
    let kernel = if image.starts_with(b"\x7fELF") {
        load_elf(memory, path, image, None)?
    } else {
        load_packed(memory, path, image, unpack_on_host)?
    };
    let last = kernel.end.saturating_sub(1);
    if kernel.end > LOW_RAM_END || !memory.address_in_range(GuestAddress(last)) {
        return Err(KernelError::TooLarge {
            path: path.to_owned(),
            needed_mib: kernel.end.div_ceil(1 << 20),
        });
    }
    Ok(kernel)
}

fn load_packed(
    memory: &GuestMemory,
    path: &Path,
    image: Vec<u8>,
    unpack_on_host: bool,
) -> Result<LoadedKernel, KernelError> {
    let header = parse_header(&image).ok_or_else(|| KernelError::UnknownFormat(path.to_owned()))?;
    if header.version < 0x20c || header.xloadflags & XLF_KERNEL_64 == 0 {
        return Err(KernelError::No64BitEntry {
            path: path.to_owned(),
            what: "xloadflags",
        });
    }
    if unpack_on_host {
        let elf = payload(path, &image, &header, crate::memory::low_len(memory))?;
        return load_elf(memory, path, elf, Some(header));
    }
    load_bzimage(memory, path, image, header)
}

/// The setup header of a bzImage, if `image` is one.
fn parse_header(image: &[u8]) -> Option<setup_header> {
    let len = 0x202 + usize::from(*image.get(0x201)?) - HEADER_AT;
    let bytes = image.get(HEADER_AT..HEADER_AT + len)?;
    let mut header = setup_header::default();
    let target = vm_memory::ByteValued::as_mut_slice(&mut header);
    let n = target.len().min(len);
    target[..n].copy_from_slice(&bytes[..n]);
    let (magic, flags) = (header.header, header.loadflags);
    (magic == HEADER_MAGIC && flags & LOADED_HIGH != 0).then_some(header)
}

/// Where the protected-mode part starts in a bzImage.
fn setup_len(header: &setup_header) -> usize {
    let sectors = match header.setup_sects {
        0 => 4,
        n => usize::from(n),
    };
    (sectors + 1) * 512
}

fn payload(
    path: &Path,
    image: &[u8],
    header: &setup_header,
    most: u64,
) -> Result<Vec<u8>, KernelError> {
    let missing = || KernelError::NoPayload(path.to_owned());
    let start = setup_len(header) + header.payload_offset as usize;
    let packed = start
        .checked_add(header.payload_length as usize)
        .and_then(|end| image.get(start..end))
        .ok_or_else(missing)?;
    let packing = Packing::detect(packed).ok_or_else(missing)?;
    let (elf, _) = unpack(packing, packed, most).map_err(|source| KernelError::Unpack {
        path: path.to_owned(),
        source,
    })?;
    if elf.starts_with(b"\x7fELF") {
        Ok(elf)
    } else {
        Err(missing())
    }
}

fn load_elf(
    memory: &GuestMemory,
    path: &Path,
    elf: Vec<u8>,
    header: Option<setup_header>,
) -> Result<LoadedKernel, KernelError> {
    // e_machine, ELF64: 62 is x86-64.
    if elf.get(4) != Some(&2) || elf.get(18..20) != Some(&[62, 0]) {
        return Err(KernelError::No64BitEntry {
            path: path.to_owned(),
            what: "not an x86-64 ELF file",
        });
    }
    let himem = Some(GuestAddress(layout::HIMEM));
    let loaded = Elf::load(memory, None, &mut Cursor::new(elf), himem)
        .map_err(|source| load_error(path, source))?;
    Ok(LoadedKernel {
        entry: loaded.kernel_load,
        end: loaded.kernel_end,
        header: header.unwrap_or_else(|| setup_header {
            header: HEADER_MAGIC,
            version: ASSUMED_VERSION,
            boot_flag: 0xaa55,
            initrd_addr_max: 0x7fff_ffff,
            kernel_alignment: 0x100_0000,
            cmdline_size: 0x7ff,
            ..Default::default()
        }),
    })
}

fn load_bzimage(
    memory: &GuestMemory,
    path: &Path,
    image: Vec<u8>,
    header: setup_header,
) -> Result<LoadedKernel, KernelError> {
    let start = match header.pref_address {
        0 => 0x100_0000,
        preferred => preferred,
    };
    let himem = Some(GuestAddress(layout::HIMEM));
    let loaded = BzImage::load(
        memory,
        Some(GuestAddress(start)),
        &mut Cursor::new(image),
        himem,
    )
    .map_err(|source| load_error(path, source))?;
    let mut header = header;
    header.code32_start = start as u32;
    Ok(LoadedKernel {
        entry: loaded.kernel_load.unchecked_add(ENTRY_64),
        // init_size covers the unpacked kernel and the room it unpacks itself in.
        end: loaded
            .kernel_end
            .max(start.saturating_add(u64::from(header.init_size))),
        header,
    })
}

fn load_error(path: &Path, source: linux_loader::loader::Error) -> KernelError {
    KernelError::Load {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
#[path = "kernel_test.rs"]
mod tests;
