//! The cpio format "newc", as the kernel unpacks an initramfs
//! (Linux `Documentation/driver-api/early-userspace/buffer-format.rst`).
//!
//! Uncompressed, because the kernel would have to unpack it and may be an interpreted one.

/// An archive being written. A file's directory must be added before it.
pub(super) struct Archive {
    bytes: Vec<u8>,
    inode: u32,
}

const DIRECTORY: u32 = 0o040_755;
const FILE: u32 = 0o100_000;

impl Archive {
    pub(super) fn new() -> Self {
        Self {
            bytes: Vec::new(),
            inode: 0,
        }
    }

    pub(super) fn directory(&mut self, path: &str) {
        self.entry(path, DIRECTORY, 2, &[]);
    }

    pub(super) fn file(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.entry(path, FILE | mode, 1, content);
    }

    /// Ends the archive; the length is a multiple of 4, so that another segment can follow.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.inode = u32::MAX; // the trailer has inode 0
        self.entry("TRAILER!!!", 0, 1, &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, links: u32, content: &[u8]) {
        self.inode = self.inode.wrapping_add(1);
        // Owner and times are zero, so that the same plan always gives the same bytes.
        let fields = [
            self.inode,
            mode,
            0,
            0,
            links,
            0,
            content.len() as u32,
            0,
            0,
            0,
            0,
            path.len() as u32 + 1,
            0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}
