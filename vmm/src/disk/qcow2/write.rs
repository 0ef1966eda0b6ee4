//! Writing: in place where a cluster is the disk's alone, else into a new one.

use std::io;

use super::Image;
use super::entry::{COPIED, Mapping};
use super::tables::Tables;

/// Most bytes that one step of an allocating write covers, while everyone else waits.
const STEP: u64 = 4 << 20;

/// Where the content of a guest cluster is going to be.
struct Target {
    old: Mapping,
    host: u64,
    /// Allocated for this write.
    is_new: bool,
}

impl Target {
    /// Whether what is in the host's cluster now is the guest's content.
    fn is_in_place(&self) -> bool {
        !self.is_new && matches!(self.old, Mapping::Data { .. })
    }
}

impl Image {
    /// Writes `data` to the disk. It is durable after the next [`flush`](Self::flush).
    ///
    /// # Errors
    /// Where the file cannot be written or grown, where a table is damaged (`InvalidData`), and
    /// beyond the end of the disk. `data` may be written in part then.
    pub fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.check_writable()?;
        self.check_range(offset, data.len() as u64)?;
        let (mut rest, mut at) = (data, offset);
        while !rest.is_empty() {
            let mut done = self.write_in_place(rest, at)?;
            if done == 0 {
                done = self.write_allocating(rest, at)?;
            }
            (rest, at) = (&rest[done..], at + done as u64);
        }
        Ok(())
    }

    /// Writes as far as clusters are there and the disk's alone, and follow each other in the
    /// file. Returns the bytes written.
    fn write_in_place(&self, data: &[u8], at: u64) -> io::Result<usize> {
        let (bits, size) = (self.geometry().cluster_bits, self.cluster_size());
        let tables = self.shared();
        let last = (at + data.len() as u64 - 1) >> bits;
        let entries = tables.entries(&self.file, at >> bits, last - (at >> bits) + 1)?;
        let (mut start, mut clusters) = (0, 0);
        for entry in entries {
            let mapping = Mapping::decode(entry, self.geometry(), self.version)?;
            let Mapping::Data { host, copied: true } = mapping else {
                break;
            };
            if clusters == 0 {
                start = host;
            } else if host != start + clusters * size {
                break;
            }
            clusters += 1;
        }
        if clusters == 0 {
            return Ok(0);
        }
        let within = at & (size - 1);
        let length = (clusters * size - within).min(data.len() as u64);
        self.file.check_present(start + (clusters - 1) * size)?;
        tables.check_data(start + within, length)?;
        self.file.write(&data[..length as usize], start + within)?;
        Ok(length as usize)
    }

    /// Writes to clusters of one L2 table, allocating those that need it. Returns the bytes
    /// written.
    fn write_allocating(&self, data: &[u8], at: u64) -> io::Result<usize> {
        let (bits, size) = (self.geometry().cluster_bits, self.cluster_size());
        let mut tables = self.alone();
        let (index, first) = tables.place(at >> bits);
        let table = tables.own_table(&self.file, index)?;

        let within = at & (size - 1);
        let most = (data.len() as u64).min(STEP.max(size) - within);
        let last = (at + most - 1) >> bits;
        let entries = tables.entries(&self.file, at >> bits, last - (at >> bits) + 1)?;
        let covered = (entries.len() as u64 * size - within).min(most);
        let data = &data[..covered as usize];

        let mut targets = Vec::with_capacity(entries.len());
        let written = self
            .choose(&mut tables, &entries, &mut targets)
            .and_then(|()| self.write_targets(&tables, &targets, data, at));
        if let Err(error) = written {
            for target in targets.iter().filter(|target| target.is_new) {
                tables.refcounts()?.cancel(&self.file, target.host)?;
            }
            return Err(error);
        }
        let changes = targets.iter().zip(first..);
        tables.set(
            table,
            changes.map(|(target, within)| (within, target.host | COPIED)),
        )?;
        for target in targets.iter().filter(|target| target.is_new) {
            let gone = target.old.references(self.geometry());
            tables.refcounts()?.unreference(gone);
        }
        Ok(data.len())
    }

    fn choose(
        &self,
        tables: &mut Tables,
        entries: &[u64],
        targets: &mut Vec<Target>,
    ) -> io::Result<()> {
        for entry in entries {
            let old = Mapping::decode(*entry, self.geometry(), self.version)?;
            self.check_references(tables, old)?;
            let kept = match old {
                Mapping::Data { host, copied } => Some((host, copied)),
                Mapping::Zero { host, copied } => host.map(|host| (host, copied)),
                _ => None,
            };
            let refcounts = tables.refcounts()?;
            let bits = self.geometry().cluster_bits;
            let (host, is_new) = match kept {
                Some((host, true)) => (host, false),
                // The flag is only a hint that this is so.
                Some((host, false)) if refcounts.count(&self.file, host >> bits)? == 1 => {
                    (host, false)
                }
                _ => (refcounts.allocate(&self.file)?, true),
            };
            if !is_new {
                self.file.check_present(host)?;
            }
            targets.push(Target { old, host, is_new });
        }
        Ok(())
    }

    /// Checks that giving up this mapping, or writing to it, touches data only.
    pub(super) fn check_references(&self, tables: &Tables, mapping: Mapping) -> io::Result<()> {
        let bits = self.geometry().cluster_bits;
        match mapping.references(self.geometry()) {
            (_, 0) => Ok(()),
            (first, count) => tables.check_data(first << bits, count << bits),
        }
    }

    fn write_targets(
        &self,
        tables: &Tables,
        targets: &[Target],
        data: &[u8],
        at: u64,
    ) -> io::Result<()> {
        let size = self.cluster_size();
        let (mut rest, mut at) = (data, at);
        let whole = |target: &Target, within: u64, length: usize| {
            target.is_in_place() || (within == 0 && length as u64 == size)
        };
        let mut clusters = targets;
        while let Some(target) = clusters.first() {
            let within = at & (size - 1);
            let mut length = rest.len().min((size - within) as usize);
            let mut taken = 1;
            if whole(target, within, length) {
                // What follows in the file too goes in one write.
                while let Some(next) = clusters.get(taken) {
                    let more = (rest.len() - length).min(size as usize);
                    if next.host != target.host + taken as u64 * size || !whole(next, 0, more) {
                        break;
                    }
                    (length, taken) = (length + more, taken + 1);
                }
                tables.check_data(target.host + within, length as u64)?;
                self.file.write(&rest[..length], target.host + within)?;
            } else {
                let start = at - within;
                let mut cluster = vec![0; size as usize];
                let on_disk = (self.size - start).min(size) as usize;
                self.read_mapped(tables, &mut cluster[..on_disk], start)?;
                cluster[within as usize..][..length].copy_from_slice(&rest[..length]);
                tables.check_data(target.host, size)?;
                self.file.write(&cluster, target.host)?;
            }
            (rest, at) = (&rest[length..], at + length as u64);
            clusters = &clusters[taken..];
        }
        Ok(())
    }
}
