//! A plan as text for people: the beginning of the server's recovery procedure.

use std::fmt::{Formatter, Result};

use super::{BootPlan, InitrdSegment, KernelSource};

pub(super) fn write(plan: &BootPlan, f: &mut Formatter<'_>) -> Result {
    let name = plan.hostname.as_deref().unwrap_or("this server");
    let system = plan.system.as_deref().unwrap_or("a Linux system");
    writeln!(f, "Recovery of {name} ({system})\n")?;

    let mut step = "";
    let mut number = 0;
    for finding in &plan.findings {
        if finding.step != step {
            step = &finding.step;
            number += 1;
            writeln!(f, "{number}. {}", capital(step))?;
        }
        writeln!(f, "   - found:   {}", finding.found)?;
        if let Some(change) = &finding.change {
            writeln!(f, "     changed: {change}")?;
        }
        writeln!(f, "     why:     {}", finding.why)?;
    }
    writeln!(f, "\nThe virtual machine")?;
    writeln!(
        f,
        "   memory:       {} MiB, {} CPU",
        plan.memory_mib, plan.cpus
    )?;
    match &plan.kernel {
        KernelSource::Image { file, release } => writeln!(
            f,
            "   kernel:       Linux {release}, {} of the image",
            file.path
        )?,
        KernelSource::Site { path } => writeln!(
            f,
            "   kernel:       {} of the recovery site",
            path.display()
        )?,
    }
    for segment in &plan.initrd {
        match segment {
            InitrdSegment::Image(file) => {
                writeln!(f, "   initramfs:    {} of the image", file.path)?
            }
            InitrdSegment::Relevo { modules, .. } => {
                writeln!(
                    f,
                    "   initramfs:    our own segment: init shim and {} modules",
                    modules.len()
                )?;
            }
        }
    }
    writeln!(f, "   command line: {}", plan.command_line)?;
    writeln!(
        f,
        "   root:         {} (UUID {})",
        plan.root.device, plan.root.uuid
    )?;
    for disk in &plan.disks {
        writeln!(
            f,
            "   disk:         {} was {}, {} bytes",
            disk.device, disk.name, disk.size
        )?;
    }
    for nic in &plan.nics {
        writeln!(
            f,
            "   network card: {} {}",
            nic.mac,
            nic.name.as_deref().unwrap_or("(named by the image)")
        )?;
    }
    Ok(())
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars
        .next()
        .map_or_else(String::new, |c| c.to_uppercase().chain(chars).collect())
}
