//! What is asked of systemd, through systemctl(1).

use std::path::Path;
use std::process::Command;

use super::InstallError;

/// Whether it is the service manager here (sd_booted(3)).
pub fn runs() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// Asks; its words are in the error.
pub fn ask(arguments: &[&str]) -> Result<(), InstallError> {
    let failed = |reason: String| InstallError::Systemctl {
        command: arguments.join(" "),
        reason,
    };
    let output = Command::new("systemctl")
        .args(arguments)
        .output()
        .map_err(|e| failed(e.to_string()))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(failed(
            String::from_utf8_lossy(&output.stderr).trim().to_string(),
        )),
    }
}
