//! The image behind controllers.

use std::io;

use super::Image;
use crate::disk::Backend;

impl Backend for Image {
    fn size(&self) -> u64 {
        self.size()
    }

    fn read_at(&self, data: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_at(data, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.write_at(data, offset)
    }

    fn flush(&self) -> io::Result<()> {
        self.flush()
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.discard(offset, len)
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        self.write_zeroes(offset, len, unmap)
    }
}
