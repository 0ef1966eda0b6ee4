//! Where the blocks of a file lie on its disk: Documentation/filesystems/fiemap.rst of Linux.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Extents asked for; a small file in more pieces is refused.
const EXTENTS: usize = 16;
/// Flags of an extent whose bytes are not plainly at their place: unknown, delayed allocation,
/// encoded, encrypted, not aligned, inline, packed with others, unwritten, shared.
const UNUSABLE: u32 = 0x2 | 0x4 | 0x8 | 0x80 | 0x100 | 0x200 | 0x400 | 0x800 | 0x2000;
const FIEMAP_FLAG_SYNC: u32 = 1;
/// Magic numbers of statfs(2): ext2/3/4 and XFS name offsets of the one device that they are on.
const ON_ONE_DEVICE: [i64; 2] = [0xef53, 0x5846_5342];

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Extent {
    logical: u64,
    physical: u64,
    length: u64,
    reserved: [u64; 2],
    flags: u32,
    reserved_more: [u32; 3],
}

#[repr(C)]
#[derive(Default)]
struct Fiemap {
    start: u64,
    length: u64,
    flags: u32,
    mapped: u32,
    count: u32,
    reserved: u32,
    extents: [Extent; EXTENTS],
}

// The kernel's size of the structure is without the extents.
nix::ioctl_readwrite_bad!(fiemap, nix::request_code_readwrite!(b'f', 11, 32), Fiemap);

/// Offsets and lengths, in bytes on the file system's device, of the first `length` bytes of a
/// file; an error when they cannot be written there.
pub(super) fn of(file: &File, length: u64) -> io::Result<Vec<(u64, u64)>> {
    let refused = |why: &str| Err(io::Error::other(why));
    let kind = rustix::fs::fstatfs(file)?.f_type;
    if !ON_ONE_DEVICE.contains(&kind) {
        return refused("the state directory is on neither ext4 nor XFS");
    }
    let mut map = Fiemap {
        length,
        flags: FIEMAP_FLAG_SYNC,
        count: EXTENTS as u32,
        ..Fiemap::default()
    };
    // SAFETY: the structure is as the kernel has it, with room for the extents that it is told of.
    unsafe { fiemap(file.as_raw_fd(), &raw mut map) }?;
    let mut at = 0;
    let mut places = Vec::new();
    for extent in map.extents.iter().take(map.mapped as usize) {
        if extent.flags & UNUSABLE != 0 || extent.logical != at {
            return refused("the file's blocks are not plainly on the disk");
        }
        let taken = extent.length.min(length - at);
        places.push((extent.physical, taken));
        at += taken;
        if at == length {
            return Ok(places);
        }
    }
    refused("the file is not whole, or in too many pieces")
}
