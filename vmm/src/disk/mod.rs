//! What disks are made of.

pub mod qcow2;
