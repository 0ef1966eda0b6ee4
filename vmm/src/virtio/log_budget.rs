//! Keeps a guest from filling the host's log.

use std::sync::atomic::{AtomicU32, Ordering};

/// How often one place may complain about the guest. One process is one virtual machine,
/// so a `static` at the place is enough.
pub struct LogBudget {
    left: AtomicU32,
}

impl Default for LogBudget {
    fn default() -> Self {
        Self::new()
    }
}

impl LogBudget {
    /// Sixteen complaints: enough to see what is wrong.
    pub const fn new() -> Self {
        Self {
            left: AtomicU32::new(16),
        }
    }

    /// Whether one more may be made.
    pub fn allows(&self) -> bool {
        let spend = |left: u32| left.checked_sub(1);
        self.left
            .try_update(Ordering::Relaxed, Ordering::Relaxed, spend)
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::LogBudget;

    #[test]
    fn a_budget_ends_and_does_not_start_again() {
        let budget = LogBudget::new();
        assert_eq!((0..100).filter(|_| budget.allows()).count(), 16);
        assert!(!budget.allows());
    }
}
