//! ext2, ext3 and ext4: the block bitmaps of all groups, with what the journal holds of them
//! (Documentation/filesystems/ext4 of Linux).
//!
//! Home copies of bitmaps may be older than the journal's, and while a mounted file system is
//! read one may be newer than the other. Nothing is replayed: a block is free when *no* copy of
//! its group's bitmap says that it is used, neither at home nor in the journal. That is what
//! replaying would make of it, or more.
//!
//! A group whose structures cannot be trusted is read whole, the others are not. With
//! `metadata_csum` the checksums of superblock, descriptors and bitmaps are demanded; without it
//! a bitmap must have as many free blocks as its descriptor says. Without a journal there is no
//! order between bitmaps and what refers to blocks: then only a file system that was unmounted
//! is looked into.

mod blocks;
mod check;
mod group;
mod journal;
mod superblock;

use super::area::Found;
use super::map::FreeRuns;
use super::volume::Volume;
use super::whole::{Seen, Whole};
pub use check::{CheckWrites, writes_of_a_check};
use group::Groups;
pub use group::clear_runs;
use journal::Journal;
use superblock::Superblock;

/// Frees what no bitmap calls used.
pub fn survey(volume: &Volume<'_>, free: &mut FreeRuns) -> Seen<Found> {
    let superblock = Superblock::read(volume)?;
    let journal = match superblock.needs_recovery {
        true => Journal::read(volume, &superblock)?,
        false => Journal::default(),
    };
    let mut groups = Groups::new(volume, &superblock, &journal);
    let mut found = FreeRuns::default();
    let (mut doubtful, mut why) = (0, None);
    for number in 0..superblock.groups {
        if let Err(reason) = groups.survey(number, &mut found) {
            doubtful += 1;
            why.get_or_insert((number, reason));
        }
    }
    if doubtful == superblock.groups
        && let Some((_, reason)) = why
    {
        return Err(reason);
    }
    let found = found.except(groups.metadata);
    let block = superblock.block;
    for (first, end) in found.runs() {
        free.push(first * block, end * block);
    }
    let read_more = why.map(|(first, reason)| {
        format!(
            "{doubtful} of {} groups are read whole, group {first} for one: {reason}",
            superblock.groups
        )
    });
    Ok(Found { read_more })
}

fn damaged() -> Whole {
    Whole::new("the file system's structures are damaged")
}
