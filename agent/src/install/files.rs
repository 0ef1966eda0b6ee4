//! Files of an installation. A package brings its own; a program that came alone brings them in
//! itself.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::InstallError;

/// The daemon.
pub const SERVICE: &str = "relevo-agent.service";
/// What goes on marking after a restart of the server.
pub const RESUME: &str = "relevo-agent-resume.service";
/// Where a package has the program.
pub const PACKAGED: &str = "/usr/bin/relevo-agent";
/// Where one that came alone puts itself.
pub const OWN: &str = "/usr/local/bin/relevo-agent";
/// Hooks of the administrator's, and what they need.
pub const SETTINGS: &str = "/etc/relevo";

const UNITS: &str = "/etc/systemd/system";
/// Where systemd and its own programs are: in the second where /lib is no link to /usr/lib.
const LIBRARIES: [&str; 2] = ["/usr/lib/systemd", "/lib/systemd"];

/// Whose files they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The package manager's: they are left to it.
    Package,
    /// This program's own.
    Alone,
}

impl Origin {
    /// Of the program that runs.
    pub fn of_this_program() -> Self {
        match std::env::current_exe() {
            Ok(path) if path == Path::new(PACKAGED) => Self::Package,
            _ => Self::Alone,
        }
    }
}

/// Path, mode and content of the files that one that came alone brings besides itself.
fn own_files() -> [(PathBuf, u32, String); 3] {
    let own = |text: &str| text.replace(PACKAGED, OWN);
    [
        (
            Path::new(UNITS).join(SERVICE),
            0o644,
            own(include_str!("../../package/relevo-agent.service")),
        ),
        (
            Path::new(UNITS).join(RESUME),
            0o644,
            own(include_str!("../../package/relevo-agent-resume.service")),
        ),
        (
            shutdown_hook(),
            0o755,
            own(include_str!("../../package/shutdown-hook")),
        ),
    ]
}

/// systemd-shutdown(8) looks beside itself, and nowhere else.
fn shutdown_hook() -> PathBuf {
    let [usual, other] = LIBRARIES.map(Path::new);
    let is_there = |dir: &Path| dir.join("systemd-shutdown").exists();
    let dir = match !is_there(usual) && is_there(other) {
        true => other,
        false => usual,
    };
    dir.join("system-shutdown/relevo-agent")
}

/// Puts program, units and shutdown hook in their places, over older ones.
pub fn put() -> Result<(), InstallError> {
    let this = std::env::current_exe().map_err(|e| failed(Path::new("/proc/self/exe"), e))?;
    if this != Path::new(OWN) {
        let mut program = fs::File::open("/proc/self/exe").map_err(|e| failed(&this, e))?;
        write(Path::new(OWN), 0o755, &mut program)?;
    }
    own_files()
        .iter()
        .try_for_each(|(path, mode, text)| write(path, *mode, &mut text.as_bytes()))
}

/// Takes them away, the program last.
pub fn take_away() -> Result<(), InstallError> {
    for (path, ..) in own_files() {
        remove(&path)?;
    }
    remove(Path::new(OWN))
}

/// Removes a file or a whole directory; that there is none is well.
pub fn remove(path: &Path) -> Result<(), InstallError> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed(path, e)),
        _ => Ok(()),
    }
}

/// Beside its place first, so that a running program keeps its file and no half one is ever seen.
fn write(path: &Path, mode: u32, content: &mut dyn io::Read) -> Result<(), InstallError> {
    let beside = path.with_extension("relevo-new");
    let written = (|| {
        fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))?;
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(mode)
            .open(&beside)?;
        io::copy(content, &mut file)?;
        fs::set_permissions(&beside, std::os::unix::fs::PermissionsExt::from_mode(mode))?;
        file.sync_all()?;
        fs::rename(&beside, path)
    })();
    written.map_err(|e| {
        let _ = fs::remove_file(&beside);
        failed(path, e)
    })
}

/// The file in words.
pub fn failed(path: &Path, source: io::Error) -> InstallError {
    InstallError::File {
        path: path.into(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards units that start a program which is not there: every path in them is the package's,
    /// and becomes this program's own.
    #[test]
    fn own_units_start_the_own_program() {
        for (path, _, text) in own_files() {
            let started = text.matches("relevo-agent ").count();
            assert!(text.contains(OWN), "{}", path.display());
            assert!(!text.contains(PACKAGED), "{}: {started}", path.display());
        }
    }
}
