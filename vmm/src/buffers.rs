//! Slices of guest memory, checked before anything is done with them.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use vm_memory::bitmap::{Bitmap, MS};
use vm_memory::{GuestAddress, GuestMemory as _, Permissions, VolatileSlice};

use crate::memory::GuestMemory;

type Slice<'m> = VolatileSlice<'m, MS<'m, GuestMemory>>;

/// Most pieces given to one system call (`IOV_MAX`).
const MAX_PIECES: usize = 1024;

/// A range that does not lie wholly in the guest's RAM.
#[derive(Debug, Clone, Copy, thiserror::Error, PartialEq, Eq)]
#[error("an address outside the guest's memory")]
pub struct OutsideMemory;

/// Bytes of guest memory that a device may read, or may write, in the order of a request.
///
/// Everything is taken from the front; nothing but what was appended can be reached.
#[derive(Default)]
pub struct Buffers<'m> {
    slices: VecDeque<Slice<'m>>,
    len: usize,
}

impl<'m> Buffers<'m> {
    /// Appends `len` bytes of guest memory from `address` on; what was appended stays
    /// when a later part turns out to lie outside.
    pub fn append(
        &mut self,
        memory: &'m GuestMemory,
        address: GuestAddress,
        len: usize,
        access: Permissions,
    ) -> Result<(), OutsideMemory> {
        let pieces = memory
            .get_slices(address, len, access)
            .map_err(|_| OutsideMemory)?;
        for piece in pieces {
            self.push(piece.map_err(|_| OutsideMemory)?);
        }
        Ok(())
    }

    fn push(&mut self, slice: Slice<'m>) {
        self.len += slice.len();
        self.slices.push_back(slice);
    }

    /// Bytes that are left.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no byte is left.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Takes the first `count` bytes away as buffers of their own; fewer if fewer are left.
    pub fn take(&mut self, count: usize) -> Buffers<'m> {
        let mut taken = Buffers::default();
        while let Some(slice) = self.slices.pop_front() {
            let room = count - taken.len;
            if slice.len() <= room {
                self.len -= slice.len();
                taken.push(slice);
                continue;
            }
            match slice.split_at(room) {
                Ok((head, tail)) if room > 0 => {
                    self.len -= head.len();
                    taken.push(head);
                    self.slices.push_front(tail);
                }
                _ => self.slices.push_front(slice),
            }
            break;
        }
        taken
    }

    /// Copies bytes out of the front; `false`, with nothing taken, if too few are left.
    pub fn read_into(&mut self, out: &mut [u8]) -> bool {
        if self.len < out.len() {
            return false;
        }
        let mut at = 0;
        for slice in self.take(out.len()).slices {
            let end = at + slice.len();
            slice.copy_to(&mut out[at..end]);
            at = end;
        }
        true
    }

    /// Copies bytes into the front, as many as fit, and returns their number.
    pub fn write_from(&mut self, data: &[u8]) -> usize {
        let mut at = 0;
        for slice in self.take(data.len()).slices {
            let end = at + slice.len();
            slice.copy_from(&data[at..end]);
            at = end;
        }
        at
    }

    /// Fills all of it from `file` at `offset`.
    pub fn fill_from(&mut self, file: &File, offset: u64) -> io::Result<()> {
        self.transfer(offset, |pieces, at| {
            // SAFETY: each piece is a valid range of mapped guest memory, kept alive by the
            // borrow in `self`; the count is the length of the array.
            let n = unsafe {
                libc::preadv64(
                    file.as_raw_fd(),
                    pieces.as_ptr(),
                    pieces.len() as libc::c_int,
                    at,
                )
            };
            count(n)
        })
    }

    /// Writes all of it to `file` at `offset`.
    pub fn drain_to(&mut self, file: &File, offset: u64) -> io::Result<()> {
        self.transfer(offset, |pieces, at| {
            // SAFETY: as in `fill_from`; the kernel only reads.
            let n = unsafe {
                libc::pwritev64(
                    file.as_raw_fd(),
                    pieces.as_ptr(),
                    pieces.len() as libc::c_int,
                    at,
                )
            };
            count(n)
        })
    }

    /// Writes all of it to `file` as one message (a frame to a tap).
    pub fn send_to(&mut self, file: &File) -> io::Result<usize> {
        if self.slices.len() > MAX_PIECES {
            let mut flat = vec![0; self.len];
            self.read_into(&mut flat);
            return io::Write::write(&mut &*file, &flat);
        }
        let pieces = self.pieces();
        // SAFETY: each piece is a valid range of mapped guest memory, kept alive by the
        // borrow in `self`; the count is the length of the array; the kernel only reads.
        let n = unsafe {
            libc::writev(
                file.as_raw_fd(),
                pieces.as_ptr(),
                pieces.len() as libc::c_int,
            )
        };
        count(n)
    }

    fn pieces(&self) -> Vec<libc::iovec> {
        self.slices
            .iter()
            .take(MAX_PIECES)
            .map(|slice| libc::iovec {
                iov_base: slice.ptr_guard_mut().as_ptr().cast(),
                iov_len: slice.len(),
            })
            .collect()
    }

    fn transfer(
        &mut self,
        mut offset: u64,
        call: impl Fn(&[libc::iovec], i64) -> io::Result<usize>,
    ) -> io::Result<()> {
        while !self.is_empty() {
            let at = i64::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
            match call(&self.pieces(), at) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => {
                    for slice in self.take(n).slices {
                        slice.bitmap().mark_dirty(0, slice.len());
                    }
                    offset += n as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The last `count` bytes, taken away; fewer if fewer are left.
    pub fn take_end(&mut self, count: usize) -> Buffers<'m> {
        let head = self.take(self.len - count.min(self.len));
        std::mem::replace(self, head)
    }

    /// Whether the whole of `data` fits; then it is copied in.
    pub fn write_all(&mut self, data: &[u8]) -> bool {
        self.len >= data.len() && self.write_from(data) == data.len()
    }
}

fn count(n: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(n).map_err(|_| io::Error::last_os_error())
}
