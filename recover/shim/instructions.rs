//! What the init shim is told to do: the text file `/.relevo/plan` in the extra segment.
//!
//! This file is part of two programs. Recover writes instructions, the shim reads them, and
//! because it is the same code the two cannot disagree. One instruction a line, words separated
//! by one blank, carried out in this order whatever the order of the lines:
//!
//! ```text
//! relevo-init 1                          version of this format, always first
//! module /.relevo/modules/virtio_blk.ko  load it (already there: fine)
//! rename 52:54:00:00:00:01 enp3s0        name the network card with this address
//! address enp3s0 192.0.2.5/24            give it an address and bring it up
//! gateway enp3s0 192.0.2.1               default route
//! link sda1 vda1                         symbolic link in devtmpfs
//! root /dev/vda1 ext4 ro errors=continue mount it as the root (`-` for no options)
//! mount /dev/vda2 /usr ext4 ro -         mount below the root
//! exec /sbin/init                        become this program; last
//! ```
//!
//! Without `root` the program is run in the initramfs itself, which is how the image's own
//! initramfs gets its turn.

use std::fmt;

/// A file system to mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Device in the virtual machine.
    pub device: String,
    /// Mount point below the root; `/` for the root itself.
    pub path: String,
    /// Type as mount(2) knows it.
    pub kind: String,
    /// Mounted read-only; the system's own start-up remounts it.
    pub read_only: bool,
    /// Options for the file system, comma separated; may be empty.
    pub options: String,
}

/// All that the shim does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Instructions {
    /// Modules in the order of loading, as paths in the initramfs.
    pub modules: Vec<String>,
    /// Network cards: hardware address and name.
    pub renames: Vec<([u8; 6], String)>,
    /// Interface, IPv4 address and prefix length.
    pub addresses: Vec<(String, [u8; 4], u8)>,
    /// Interface and IPv4 gateway.
    pub gateways: Vec<(String, [u8; 4])>,
    /// Name and target of links in devtmpfs.
    pub links: Vec<(String, String)>,
    /// Root first, then what is mounted below it.
    pub mounts: Vec<Mount>,
    /// Program to become.
    pub exec: String,
}

impl Instructions {
    /// Reads the text; the error names the line.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut lines = text.lines();
        match lines.next() {
            Some("relevo-init 1") => {}
            other => return Err(format!("unknown version {:?}", other.unwrap_or(""))),
        }
        let mut plan = Self::default();
        for line in lines.filter(|l| !l.is_empty()) {
            plan.line(line)
                .ok_or_else(|| format!("cannot understand {line:?}"))?;
        }
        if plan.exec.is_empty() {
            return Err("no program to start is named".into());
        }
        Ok(plan)
    }

    fn line(&mut self, line: &str) -> Option<()> {
        let (verb, rest) = line.split_once(' ')?;
        let words: Vec<&str> = rest.split(' ').collect();
        match (verb, words.as_slice()) {
            ("module", _) => self.modules.push(rest.into()),
            ("rename", [mac, name]) => self.renames.push((parse_mac(mac)?, (*name).into())),
            ("address", [name, address]) => {
                let (address, prefix) = address.split_once('/')?;
                let prefix = prefix.parse().ok().filter(|p| *p <= 32)?;
                self.addresses
                    .push(((*name).into(), parse_ipv4(address)?, prefix));
            }
            ("gateway", [name, address]) => {
                self.gateways.push(((*name).into(), parse_ipv4(address)?))
            }
            ("link", [name, target]) => self.links.push(((*name).into(), (*target).into())),
            ("root", [device, kind, mode, options]) => self
                .mounts
                .insert(0, mount(device, "/", kind, mode, options)?),
            ("mount", [device, path, kind, mode, options]) => {
                self.mounts.push(mount(device, path, kind, mode, options)?);
            }
            ("exec", _) => self.exec = rest.into(),
            _ => return None,
        }
        Some(())
    }
}

fn mount(device: &str, path: &str, kind: &str, mode: &str, options: &str) -> Option<Mount> {
    let read_only = match mode {
        "ro" => true,
        "rw" => false,
        _ => return None,
    };
    let options = if options == "-" { "" } else { options };
    Some(Mount {
        device: device.into(),
        path: path.into(),
        kind: kind.into(),
        read_only,
        options: options.into(),
    })
}

/// Six hexadecimal bytes separated by colons.
pub fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        *byte = u8::from_str_radix(parts.next().filter(|p| p.len() == 2)?, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}

fn parse_ipv4(text: &str) -> Option<[u8; 4]> {
    text.parse::<std::net::Ipv4Addr>().ok().map(|a| a.octets())
}

impl fmt::Display for Instructions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "relevo-init 1")?;
        for module in &self.modules {
            writeln!(f, "module {module}")?;
        }
        for ([a, b, c, d, e, g], name) in &self.renames {
            writeln!(
                f,
                "rename {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x} {name}"
            )?;
        }
        for (name, [a, b, c, d], prefix) in &self.addresses {
            writeln!(f, "address {name} {a}.{b}.{c}.{d}/{prefix}")?;
        }
        for (name, [a, b, c, d]) in &self.gateways {
            writeln!(f, "gateway {name} {a}.{b}.{c}.{d}")?;
        }
        for (name, target) in &self.links {
            writeln!(f, "link {name} {target}")?;
        }
        for m in &self.mounts {
            let mode = if m.read_only { "ro" } else { "rw" };
            let options = if m.options.is_empty() {
                "-"
            } else {
                &m.options
            };
            match m.path.as_str() {
                "/" => writeln!(f, "root {} {} {mode} {options}", m.device, m.kind)?,
                path => writeln!(f, "mount {} {path} {} {mode} {options}", m.device, m.kind)?,
            }
        }
        writeln!(f, "exec {}", self.exec)
    }
}
