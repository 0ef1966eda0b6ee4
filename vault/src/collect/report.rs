//! What a collection did, and what it left.

use serde::Serialize;

use relevo_wire::TenantId;

use crate::error::StoreError;
use crate::images::bytes;

/// What a collection did; of a dry run, what it would do.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// Nothing was changed.
    pub dry_run: bool,
    /// Chunks that left the catalogue.
    pub chunks_removed: u64,
    /// Bytes of packs that they took.
    pub bytes_died: u64,
    /// Packs that are gone.
    pub packs_retired: u64,
    /// Those of them that held something of use, which was copied.
    pub packs_rewritten: u64,
    /// Bytes that were copied.
    pub bytes_copied: u64,
    /// Bytes of the packs that are gone.
    pub bytes_freed: u64,
    /// Chunks that nothing refers to and that stay for now: their grace has not passed, or an
    /// upload that is open may count on them.
    pub waiting: u64,
    /// What may not be collected, and why.
    pub held_back: Vec<HeldBack>,
    /// What could not be read, and is left as it is.
    pub damage: Vec<String>,
    /// What failed; the rest was collected all the same, and this is tried again next time.
    pub failures: Vec<String>,
}

impl Report {
    pub(super) fn fail(&mut self, what: impl std::fmt::Display, error: &StoreError) {
        let failure = format!("{what}: {error}");
        tracing::error!(failure, remedy = error.remedy(), "not collected");
        self.failures.push(failure);
    }
}

/// A tenant of which nothing is removed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HeldBack {
    /// Whose.
    pub tenant: TenantId,
    /// Chunks that nothing seems to refer to.
    pub chunks: u64,
    /// Why.
    pub reason: String,
    /// What to do.
    pub remedy: &'static str,
}

/// For people.
pub fn text(report: &Report) -> String {
    use std::fmt::Write;
    let mut text = String::new();
    let (removed, gone) = match report.dry_run {
        true => ("would be removed", "would go"),
        false => ("removed", "gone"),
    };
    let _ = writeln!(
        text,
        "{} chunks {removed}, {}; {} more wait for their grace",
        report.chunks_removed,
        bytes(report.bytes_died),
        report.waiting
    );
    let _ = writeln!(
        text,
        "{} packs {gone}, {}; {} of them rewritten, {} copied",
        report.packs_retired,
        bytes(report.bytes_freed),
        report.packs_rewritten,
        bytes(report.bytes_copied)
    );
    for held in &report.held_back {
        let _ = writeln!(
            text,
            "held back: tenant {}, {} chunks: {}\n  remedy: {}",
            held.tenant, held.chunks, held.reason, held.remedy
        );
    }
    for damage in &report.damage {
        let _ = writeln!(
            text,
            "damage, left as it is: {damage}\n  remedy: run 'relevo-vault verify'"
        );
    }
    for failure in &report.failures {
        let _ = writeln!(
            text,
            "failed: {failure}\n  remedy: see the vault's log; the next collection tries it again"
        );
    }
    text
}
