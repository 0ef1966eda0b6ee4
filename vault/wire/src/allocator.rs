//! How the C library's allocator is set, in the programs that serve and carry data.

/// Lets all threads share two heaps. By default each of many threads gets its own, in which the
/// mebibytes that passed through it stay: a vault with 60 threads keeps twice of what it uses.
/// To be called first in `main`.
pub fn share_heaps() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: mallopt takes two integers and changes only the allocator's own state; no
        // thread was started yet.
        unsafe { libc::mallopt(libc::M_ARENA_MAX, 2) };
    }
}
