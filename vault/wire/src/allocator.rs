//! How the C library's allocator is set, in the programs that serve and carry data.

/// Larger pieces get pages of their own, which go back to the system when they are freed: spans,
/// maps, read-ahead. Chunks are below it: they come and go too often for that.
#[cfg(target_env = "gnu")]
const OWN_PAGES: i32 = 512 << 10;
/// Free memory at a heap's end that is kept, in bytes.
#[cfg(target_env = "gnu")]
const KEPT: i32 = 2 << 20;

/// Lets all threads share two heaps, and gives back what is free.
///
/// By default each of many threads gets its own, in which the mebibytes that passed through it
/// stay: a vault with 60 threads keeps twice of what it uses. And once a large piece was freed,
/// those of its size come from the heaps, too, where smaller ones that live longer hold them fast.
/// To be called first in `main`.
pub fn share_heaps() {
    #[cfg(target_env = "gnu")]
    {
        let settings = [
            (libc::M_ARENA_MAX, 2),
            (libc::M_MMAP_THRESHOLD, OWN_PAGES),
            (libc::M_TRIM_THRESHOLD, KEPT),
        ];
        for (name, value) in settings {
            // SAFETY: mallopt takes two integers and changes only the allocator's own state; no
            // thread was started yet.
            unsafe { libc::mallopt(name, value) };
        }
    }
}
