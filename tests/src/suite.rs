//! Runs cases; one that needs what the host lacks is counted as ignored and says why.

use libtest_mimic::{Arguments, Failed, Trial};

/// Something a host may lack.
pub struct Need {
    what: &'static str,
    lacking: Option<String>,
}

impl Need {
    /// Superuser rights.
    pub fn root() -> Self {
        let uid = std::fs::metadata("/proc/self").map(|m| std::os::unix::fs::MetadataExt::uid(&m));
        Self::new(
            "root",
            uid.is_ok_and(|uid| uid == 0),
            "run the tests as root",
        )
    }

    /// `/dev/kvm`, readable and writable.
    pub fn kvm() -> Self {
        let open = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/kvm");
        Self::new(
            "KVM",
            open.is_ok(),
            "load kvm_intel or kvm_amd, or allow nested virtualization",
        )
    }

    /// Network namespaces and taps.
    pub fn tun() -> Self {
        Self::device("/dev/net/tun", "load the tun module")
    }

    /// A device of the kernel's.
    pub fn device(path: &'static str, remedy: &str) -> Self {
        Self::new(path, std::path::Path::new(path).exists(), remedy)
    }

    /// Programs in the kernel on the block layer's tracepoints, pinned (Linux 5.15 and later).
    pub fn tracepoints() -> Self {
        let there = |path: &str| std::path::Path::new(path).exists();
        Self::new(
            "BPF and BTF",
            there("/sys/kernel/btf/vmlinux") && there("/sys/fs/bpf"),
            "run a kernel that has both",
        )
    }

    /// What makes packages, as `make package` builds it.
    pub fn packagers() -> Self {
        let bin = crate::binaries::cache().join("package/bin");
        let there = ["cargo-deb", "cargo-generate-rpm"].map(|name| bin.join(name).exists());
        Self::new(
            "cargo-deb and cargo-generate-rpm",
            there == [true; 2],
            "'make package' builds them",
        )
    }

    /// File systems in layers.
    pub fn overlay() -> Self {
        Self::file_system("overlay")
    }

    /// A kind of file system that the kernel mounts.
    pub fn file_system(kind: &'static str) -> Self {
        let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
        let there = known
            .lines()
            .any(|line| line.ends_with(&format!("\t{kind}")));
        Self::new(kind, there, "load the module of this file system")
    }

    /// A program in the path.
    pub fn program(name: &'static str) -> Self {
        let paths = std::env::var_os("PATH").unwrap_or_default();
        let there = std::env::split_paths(&paths).any(|dir| dir.join(name).exists());
        Self::new(name, there, "tests/install-prerequisites installs it")
    }

    fn new(what: &'static str, there: bool, remedy: &str) -> Self {
        Self {
            what,
            lacking: (!there).then(|| remedy.to_string()),
        }
    }
}

/// A list of cases.
#[derive(Default)]
pub struct Suite {
    trials: Vec<Trial>,
}

impl Suite {
    /// Adds a case. It fails by panicking.
    pub fn case(self, name: &str, case: impl FnOnce() + Send + 'static) -> Self {
        self.case_with(name, &[], case)
    }

    /// Adds a case that needs something of the host.
    pub fn case_with(
        mut self,
        name: &str,
        needs: &[Need],
        case: impl FnOnce() + Send + 'static,
    ) -> Self {
        let lacking: Vec<_> = needs
            .iter()
            .filter_map(|need| need.lacking.as_ref().map(|remedy| (need.what, remedy)))
            .collect();
        for (what, remedy) in &lacking {
            eprintln!("skipped {name}: this host lacks {what} ({remedy})");
        }
        let run = move || -> Result<(), Failed> {
            case();
            Ok(())
        };
        self.trials
            .push(Trial::test(name, run).with_ignored_flag(!lacking.is_empty()));
        self
    }

    /// Runs them, few at a time since each has processes of its own, and ends the program.
    pub fn run(self) -> ! {
        let mut arguments = Arguments::from_args();
        arguments.test_threads = arguments.test_threads.or(Some(2));
        libtest_mimic::run(&arguments, self.trials).exit()
    }
}
