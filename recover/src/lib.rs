//! Relevo recover.
