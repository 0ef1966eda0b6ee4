//! Relevo drills.
