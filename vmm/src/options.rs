//! The values of `run`'s options: what a disk, a network card and a console are on the
//! command line.
//!
//! Each is `key=value[,key=value]…`; a comma cannot be part of a value.

use std::path::PathBuf;
use std::str::FromStr;

use serde::Serialize;

use crate::disk::Format;
use crate::virtio::MacAddress;

/// Where a virtual disk's blocks come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskSource {
    /// An image or a block device.
    File {
        /// The file.
        path: PathBuf,
        /// Refuse the guest's writes.
        readonly: bool,
        /// How the blocks are kept in it; raw unless it is said.
        format: Option<Format>,
    },
    /// A vhost-user-blk server.
    VhostUser {
        /// The server's Unix socket.
        socket: PathBuf,
    },
}

/// One `--disk`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskOption {
    /// Where the blocks come from.
    pub source: DiskSource,
    /// What the guest sees as the disk's serial number (at most 20 bytes).
    pub serial: Option<String>,
}

/// One `--net`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetOption {
    /// Name of a tap device that exists.
    pub tap: String,
    /// The card's hardware address; made from the tap's name if absent.
    pub mac: Option<MacAddress>,
}

/// One `--console`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConsoleOption {
    /// Append the guest's output to a file.
    File(PathBuf),
    /// Offer output and input on a Unix socket.
    Socket(PathBuf),
    /// The VMM's own terminal.
    Stdio,
}

/// When the measures for KVM without VT-x or AMD-V are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum QuirksOption {
    /// Exactly when the host's CPU has neither vmx nor svm.
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

/// What happens when the guest resets itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum OnReset {
    /// End with exit code 3.
    Exit,
    /// Start the machine again from its kernel.
    Restart,
}

/// The machine's timer interrupt, where the host interprets the guest's kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TickOption {
    /// Decide by the rate that the guest's kernel programs.
    Auto,
    /// KVM's own timer, at whatever rate the guest asks for.
    Kvm,
    /// At most so many interrupts a second.
    AtMost(u32),
}

/// Why an option's value cannot be used. The text is the message clap shows.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum OptionError {
    /// A part that is not `key=value`, or a key this option does not have.
    #[error("`{0}` is not understood here")]
    Unknown(String),
    /// A key that needs a value was given none.
    #[error("`{0}` needs a value")]
    Empty(String),
    /// The key that says where the data comes from is missing, or there are two.
    #[error("exactly one of {0} is needed")]
    Source(&'static str),
    /// A serial number that does not fit virtio-blk's field.
    #[error("a serial number has at most 20 bytes")]
    LongSerial,
    /// Not six hexadecimal bytes, or a multicast address.
    #[error("`{0}` is not the hardware address of one card (52:54:00:12:34:56)")]
    BadMac(String),
    /// The tick rate is no number that makes sense.
    #[error("`{0}` is neither auto, kvm nor a rate from 10 to 1000")]
    BadTick(String),
    /// A format that no disk has here.
    #[error("`{0}` is no format: a disk is raw or qcow2")]
    BadFormat(String),
    /// `format` on a disk whose server decides that.
    #[error("how a vhost-user disk is kept is its server's decision")]
    FormatVhost,
    /// `readonly` on a disk whose server decides that.
    #[error("whether a vhost-user disk can be written is its server's decision")]
    ReadonlyVhost,
}

fn parts(text: &str) -> impl Iterator<Item = (&str, Option<&str>)> {
    text.split(',').map(|part| match part.split_once('=') {
        Some((key, value)) => (key, Some(value)),
        None => (part, None),
    })
}

fn filled<'a>(key: &str, value: Option<&'a str>) -> Result<&'a str, OptionError> {
    value
        .filter(|v| !v.is_empty())
        .ok_or_else(|| OptionError::Empty(key.to_owned()))
}

impl FromStr for DiskOption {
    type Err = OptionError;

    fn from_str(text: &str) -> Result<Self, OptionError> {
        let (mut path, mut socket, mut serial, mut readonly) = (None, None, None, false);
        let mut format = None;
        for (key, value) in parts(text) {
            match (key, value) {
                ("path", v) => path = Some(PathBuf::from(filled(key, v)?)),
                ("vhost-user", v) => socket = Some(PathBuf::from(filled(key, v)?)),
                ("serial", v) => serial = Some(filled(key, v)?.to_owned()),
                ("readonly", None) => readonly = true,
                ("format", Some("raw")) => format = Some(Format::Raw),
                ("format", Some("qcow2")) => format = Some(Format::Qcow2),
                ("format", Some(other)) => return Err(OptionError::BadFormat(other.to_owned())),
                _ => return Err(OptionError::Unknown(key.to_owned())),
            }
        }
        if serial.as_ref().is_some_and(|s| s.len() > 20) {
            return Err(OptionError::LongSerial);
        }
        let source = match (path, socket) {
            (Some(path), None) => DiskSource::File {
                path,
                readonly,
                format,
            },
            (None, Some(_)) if format.is_some() => return Err(OptionError::FormatVhost),
            (None, Some(_)) if readonly => return Err(OptionError::ReadonlyVhost),
            (None, Some(socket)) => DiskSource::VhostUser { socket },
            _ => return Err(OptionError::Source("path=FILE and vhost-user=SOCKET")),
        };
        Ok(Self { source, serial })
    }
}

impl FromStr for NetOption {
    type Err = OptionError;

    fn from_str(text: &str) -> Result<Self, OptionError> {
        let (mut tap, mut mac) = (None, None);
        for (key, value) in parts(text) {
            match key {
                "tap" => tap = Some(filled(key, value)?.to_owned()),
                "mac" => {
                    let text = filled(key, value)?;
                    let bad = |_| OptionError::BadMac(text.to_owned());
                    mac = Some(text.parse().map_err(bad)?);
                }
                _ => return Err(OptionError::Unknown(key.to_owned())),
            }
        }
        let tap = tap.ok_or(OptionError::Source("tap=NAME"))?;
        Ok(Self { tap, mac })
    }
}

impl FromStr for ConsoleOption {
    type Err = OptionError;

    fn from_str(text: &str) -> Result<Self, OptionError> {
        match text.split_once('=') {
            None if text == "stdio" => Ok(Self::Stdio),
            Some(("file", path)) => Ok(Self::File(filled("file", Some(path))?.into())),
            Some(("socket", path)) => Ok(Self::Socket(filled("socket", Some(path))?.into())),
            _ => Err(OptionError::Unknown(text.to_owned())),
        }
    }
}

impl FromStr for TickOption {
    type Err = OptionError;

    fn from_str(text: &str) -> Result<Self, OptionError> {
        match text {
            "auto" => Ok(Self::Auto),
            "kvm" => Ok(Self::Kvm),
            _ => text
                .parse()
                .ok()
                .filter(|hz| (10..=1000).contains(hz))
                .map(Self::AtMost)
                .ok_or_else(|| OptionError::BadTick(text.to_owned())),
        }
    }
}

#[cfg(test)]
#[path = "options_test.rs"]
mod tests;
