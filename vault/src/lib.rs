//! Relevo vault.
