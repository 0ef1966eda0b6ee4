//! Relevo vmm.
