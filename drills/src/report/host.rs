//! The host that held the drill: a recovery time means little without it.

use std::fs::read_to_string;

use serde::Serialize;

/// What was measured on.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Host {
    /// Its name.
    pub hostname: String,
    /// Its kernel's release.
    pub kernel: String,
    /// Its processor's model.
    pub cpu_model: String,
    /// Number of logical CPUs.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Whether the processor offers VT-x or AMD-V. Without them guests run many times slower.
    pub hardware_virtualization: bool,
}

impl Host {
    /// Looks at this host. What cannot be found out stays empty.
    pub fn look() -> Self {
        let read = |path| read_to_string(path).unwrap_or_default();
        let cpuinfo = read("/proc/cpuinfo");
        let field = |name: &str| {
            cpuinfo
                .lines()
                .filter_map(|line| line.split_once(':'))
                .find(|(key, _)| key.trim() == name)
                .map(|(_, value)| value.trim().to_owned())
                .unwrap_or_default()
        };
        let memory_kib = read("/proc/meminfo")
            .lines()
            .find_map(|line| line.strip_prefix("MemTotal:"))
            .and_then(|rest| {
                rest.trim()
                    .trim_end_matches("kB")
                    .trim()
                    .parse::<u64>()
                    .ok()
            })
            .unwrap_or(0);
        Self {
            hostname: read("/proc/sys/kernel/hostname").trim().to_owned(),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            cpu_model: field("model name"),
            cpus: std::thread::available_parallelism()
                .map_or(0, |n| u32::try_from(n.get()).unwrap_or(u32::MAX)),
            memory_bytes: memory_kib.saturating_mul(1024),
            hardware_virtualization: field("flags")
                .split_whitespace()
                .any(|flag| flag == "vmx" || flag == "svm"),
        }
    }
}
