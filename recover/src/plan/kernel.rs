//! Which kernel the virtual machine gets: the image's own, or one of the recovery site.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::system::System;
use super::{Finding, PlanError, PlanInput, modules, step};
use crate::boot_loader::version::major_minor;
use crate::boot_loader::{BootEntry, FileOnVolume};
use crate::filesystem::FileSystem;
use crate::filesystem::volume::Volumes;

/// Whose kernel to use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KernelChoice {
    /// The image's own where it can run, else the site's.
    #[default]
    Auto,
    /// The image's own, whatever it costs.
    Image,
    /// The site's.
    Site,
}

/// The image's own kernel, if it can drive virtual hardware.
#[derive(Debug)]
pub struct ImageKernel {
    /// The file.
    pub file: FileOnVolume,
    /// Release, as `uname -r` prints it.
    pub release: String,
    /// Modules that it needs loaded, in order.
    pub modules: Vec<FileOnVolume>,
    /// Remarks on its drivers.
    pub findings: Vec<Finding>,
}

/// The decision.
#[derive(Debug)]
pub enum Chosen {
    /// The image's own.
    Image {
        /// The file.
        file: FileOnVolume,
        /// Its release.
        release: String,
        /// Modules to load.
        modules: Vec<FileOnVolume>,
    },
    /// The site's.
    Site {
        /// The file on the recovery host.
        path: PathBuf,
    },
}

/// Looks at the kernel that the boot loader would start; the error says why it cannot be used.
pub fn inspect(
    volumes: &Volumes,
    system: &System,
    entry: Option<&BootEntry>,
) -> Result<ImageKernel, String> {
    let entry = entry.ok_or("neither a boot loader's configuration nor /boot names one")?;
    let fs = volumes.all[entry.kernel.volume]
        .fs
        .as_ref()
        .ok_or("its volume cannot be read")?;
    let image = fs.read(&entry.kernel.path).map_err(|e| e.to_string())?;
    let release = release(&image, &entry.kernel.path)?;
    if let Some(version) = major_minor(&release)
        && version < (4, 0)
        // Red Hat carried the driver for virtio 1.0 back to 3.10 in release 7.
        && !release.contains(".el7")
    {
        return Err(format!(
            "Linux {release} is older than virtio 1.0 (Linux 4.0)"
        ));
    }
    let drivers = modules::resolve(system, &release, entry.initrds.is_empty())?;
    Ok(ImageKernel {
        file: entry.kernel.clone(),
        release,
        modules: drivers.files,
        findings: drivers.findings,
    })
}

/// Release of a kernel image: from the bzImage header (Linux `Documentation/arch/x86/boot.rst`,
/// field `kernel_version`), else from its file name.
fn release(image: &[u8], path: &str) -> Result<String, String> {
    let from_name = || {
        let name = path.rsplit('/').next().unwrap_or_default();
        name.split_once('-')
            .map(|(_, release)| release.to_owned())
            .filter(|r| major_minor(r).is_some())
    };
    if image.get(0x202..0x206) == Some(b"HdrS") {
        let at = image
            .get(0x20e..0x210)
            .map_or(0, |b| usize::from(u16::from_le_bytes([b[0], b[1]])))
            + 0x200;
        let text: String = image
            .get(at..)
            .unwrap_or_default()
            .iter()
            .take_while(|b| **b > b' ' && b.is_ascii())
            .take(128)
            .map(|b| char::from(*b))
            .collect();
        return Some(text)
            .filter(|t| major_minor(t).is_some())
            .or_else(from_name)
            .ok_or_else(|| format!("{path} does not tell its version"));
    }
    if image.starts_with(b"\x7fELF") {
        return from_name().ok_or_else(|| format!("{path} does not tell its version"));
    }
    Err(format!(
        "{path} is neither a bzImage nor an ELF kernel for x86-64"
    ))
}

/// Decides between the image's kernel and the site's.
pub fn choose(
    own: Result<ImageKernel, String>,
    input: &PlanInput,
    findings: &mut Vec<Finding>,
) -> Result<Chosen, PlanError> {
    let slow = "the host has no hardware virtualization (VT-x or AMD-V): KVM interprets the guest's kernel there, \
                and a distribution's kernel takes minutes to start";
    let reason = match (input.kernel, &own) {
        (KernelChoice::Site, _) => "asked for".to_owned(),
        (KernelChoice::Auto, Ok(_)) if !input.hardware_virtualization => slow.to_owned(),
        (KernelChoice::Auto, Err(reason)) => reason.clone(),
        (KernelChoice::Image, Err(reason)) => {
            return Err(PlanError::NoKernel {
                reason: reason.clone(),
            });
        }
        (KernelChoice::Auto | KernelChoice::Image, Ok(_)) => String::new(),
    };
    match (own, &input.site_kernel) {
        (Ok(kernel), _) if reason.is_empty() => {
            findings.push(Finding::seen(
                step::KERNEL,
                format!("Linux {} of the image", kernel.release),
                "it has drivers for virtual hardware, and the server runs the kernel it was tested with",
            ));
            findings.extend(kernel.findings);
            Ok(Chosen::Image {
                file: kernel.file,
                release: kernel.release,
                modules: kernel.modules,
            })
        }
        (own, Some(path)) => {
            let found = match own {
                Ok(kernel) => format!("Linux {} of the image", kernel.release),
                Err(reason) => format!("no usable kernel in the image: {reason}"),
            };
            match std::fs::metadata(path) {
                Ok(meta) if meta.is_file() => {}
                Ok(_) => {
                    return Err(PlanError::NoSiteKernel {
                        path: path.clone(),
                        reason: "not a file".into(),
                    });
                }
                Err(error) => {
                    return Err(PlanError::NoSiteKernel {
                        path: path.clone(),
                        reason: error.to_string(),
                    });
                }
            }
            findings.push(Finding::changed(
                step::KERNEL,
                found,
                format!(
                    "the site kernel {} is used, without the image's initramfs",
                    path.display()
                ),
                reason,
            ));
            Ok(Chosen::Site { path: path.clone() })
        }
        (Ok(_), None) => Err(PlanError::SiteKernelNeeded {
            reason,
            can_be_forced: true,
        }),
        (Err(why), None) if input.kernel == KernelChoice::Site => {
            Err(PlanError::SiteKernelNeeded {
                reason: format!("a site kernel was asked for ({why})"),
                can_be_forced: false,
            })
        }
        (Err(reason), None) => Err(PlanError::NoKernel { reason }),
    }
}
