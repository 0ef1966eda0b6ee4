//! From files to a guest that can be started: kernel, initramfs, boot parameters and the
//! first vCPU's registers, as Linux's 64-bit boot protocol wants them
//! (`Documentation/arch/x86/boot.rst`).

pub mod initrd;
pub mod kernel;
pub mod registers;
pub mod unpack;
pub mod zero_page;

mod image_file;

pub use image_file::ImageFile;

/// Where the boot-time structures lie in the guest's first MiB.
pub mod layout {
    /// Global descriptor table.
    pub const GDT: u64 = 0x500;
    /// An interrupt descriptor table of length zero.
    pub const IDT: u64 = 0x600;
    /// The "zero page": Linux's `struct boot_params`.
    pub const ZERO_PAGE: u64 = 0x7000;
    /// Stack for the first instructions.
    pub const STACK: u64 = 0x8ff0;
    /// Page tables that map the first 4 GiB to themselves: one PML4, one PDPT, four PDs.
    pub const PAGE_TABLES: u64 = 0x9000;
    /// The kernel's command line.
    pub const CMDLINE: u64 = 0x2_0000;
    /// Longest command line, with its terminating zero.
    pub const CMDLINE_MAX: usize = 0x1_0000;
    /// End of the RAM that a PC has below its option ROMs.
    pub const EBDA: u64 = 0x9_fc00;
    /// ACPI tables; Linux scans this region for them (ACPI 6.5, 5.2.5.1).
    pub const ACPI: u64 = 0xe_0000;
    /// SMBIOS tables; Linux scans the 64 KiB from here for them.
    pub const SMBIOS: u64 = 0xf_0000;
    /// RAM above the first MiB.
    pub const HIMEM: u64 = 0x10_0000;
}
