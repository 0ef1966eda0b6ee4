//! Reading.

use std::io;

use super::Image;
use super::compressed;
use super::entry::Mapping;
use super::tables::{Tables, locked};

impl Image {
    /// Fills `buffer` from the disk.
    ///
    /// # Errors
    /// Where the file cannot be read, where a table is damaged (`InvalidData`), and beyond the
    /// end of the disk. `buffer` may be filled in part then.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.check_range(offset, buffer.len() as u64)?;
        self.read_mapped(&self.shared(), buffer, offset)
    }

    /// Reads by tables that are held already.
    pub(super) fn read_mapped(
        &self,
        tables: &Tables,
        buffer: &mut [u8],
        offset: u64,
    ) -> io::Result<()> {
        let (bits, size) = (self.geometry().cluster_bits, self.cluster_size());
        let (mut rest, mut at) = (buffer, offset);
        while !rest.is_empty() {
            let last = (at + rest.len() as u64 - 1) >> bits;
            let entries = tables.entries(&self.file, at >> bits, last - (at >> bits) + 1)?;
            let mut mappings = Vec::with_capacity(entries.len());
            for entry in entries {
                mappings.push(Mapping::decode(entry, self.geometry(), self.version)?);
            }
            for run in mappings.chunk_by(|a, b| continues(*a, *b, size)) {
                let within = at & (size - 1);
                let length = (run.len() as u64 * size - within).min(rest.len() as u64);
                let (piece, tail) = rest.split_at_mut(length as usize);
                self.read_run(tables, run[0], piece, at)?;
                (rest, at) = (tail, at + length);
            }
        }
        Ok(())
    }

    /// Reads from consecutive clusters whose first is mapped so.
    fn read_run(
        &self,
        tables: &Tables,
        first: Mapping,
        piece: &mut [u8],
        at: u64,
    ) -> io::Result<()> {
        let within = at & (self.cluster_size() - 1);
        match first {
            Mapping::Unallocated => match &self.backing {
                Some(backing) => backing.read_at(piece, at),
                None => {
                    piece.fill(0);
                    Ok(())
                }
            },
            Mapping::Zero { .. } => {
                piece.fill(0);
                Ok(())
            }
            Mapping::Data { host, .. } => self.file.read_data(piece, host + within),
            Mapping::Compressed { offset, length } => {
                let key = (tables.generation(), offset);
                let kept = locked(&self.decompressed).get(key);
                let cluster = match kept {
                    Some(cluster) => cluster,
                    None => {
                        let cluster =
                            compressed::read(&self.file, self.compression, offset, length)?;
                        locked(&self.decompressed).keep(key, cluster.clone());
                        cluster
                    }
                };
                let within = within as usize;
                piece.copy_from_slice(&cluster[within..within + piece.len()]);
                Ok(())
            }
        }
    }
}

/// Whether `next` can be read together with `this`, the cluster before it.
fn continues(this: Mapping, next: Mapping, cluster_size: u64) -> bool {
    match (this, next) {
        (Mapping::Unallocated, Mapping::Unallocated)
        | (Mapping::Zero { .. }, Mapping::Zero { .. }) => true,
        (Mapping::Data { host: this, .. }, Mapping::Data { host: next, .. }) => {
            next == this + cluster_size
        }
        _ => false,
    }
}
