//! What can be asked. Help, completions and the manual page come from here.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use super::key_options::{KeygenArgs, KeysCommand, UnlockArgs};
use crate::failover::{Check, MachineRequest, NetworkRequest};
use crate::network::Publish;
use crate::serve_disk::nbd::NbdAddress;
use crate::site::PointSelector;

/// Brings lost servers back from a vault.
#[derive(Parser, Debug)]
#[command(
    name = "relevo-recover",
    version,
    about = "Brings lost servers back: runs them straight from the vault, or restores their disks",
    after_help = "A first recovery:\n  \
        relevo-recover keygen --out keys             once; keep opening-keys.toml safe\n  \
        relevo-recover enroll --vault vault:7443 --token TOKEN --keys keys/opening-keys.toml\n  \
        relevo-recover list                          what can be recovered\n  \
        relevo-recover plan db1                      what would be done, and why\n  \
        relevo-recover failover db1 --wait-http /    run it now, from the vault\n  \
        relevo-recover stop db1                      end it; what it wrote is kept\n\n\
        With nothing but the packs and the keys on paper:\n  \
        relevo-recover keys from-paper paper.txt --out opening-keys.toml\n  \
        relevo-recover restore db1 --to disk.raw --packs DIR --keys opening-keys.toml\n\n\
        Exit codes: 0 done, 1 failed, 2 wrong usage, 5 this host cannot run virtual machines,\n\
        6 the server did not answer in time, 130 interrupted."
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
    /// Directory with this site's enrolment, keys and running servers
    #[arg(long, global = true, value_name = "DIR", default_value = crate::site::DEFAULT_STATE)]
    pub state: PathBuf,
    /// Say more on standard error; repeat for more. RELEVO_LOG takes a filter instead
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Make the keys of a new tenant: one file for recovery, one for the agents
    Keygen(KeygenArgs),
    /// Print, wrap, rotate and restore keys
    #[command(subcommand)]
    Keys(KeysCommand),
    /// Make this host a recovery site of a vault
    Enroll(EnrollArgs),
    /// List servers and their latest recovery points
    List(ListArgs),
    /// Show a server's recovery points, and one of them in detail
    Inspect(InspectArgs),
    /// Write a disk back to a file or a device, bit for bit
    Restore(RestoreArgs),
    /// Say how a server would be recovered, what would be changed, and why; changes nothing
    Plan(PlanArgs),
    /// Run a server as a virtual machine, straight from the vault
    Failover(FailoverArgs),
    /// Serve a recovery point's disks over NBD, for QEMU, libvirt or nbd-client
    Export(ExportArgs),
    /// Show the servers that run here, and clean up after what was killed
    Status(StatusArgs),
    /// Stop a server: power button, then the plug. What it wrote is kept
    Stop(StopArgs),
    /// Print a completion script for a shell
    Completions {
        /// bash, zsh, fish, elvish or powershell
        shell: clap_complete::Shell,
    },
    /// Print the manual page, for 'man -l -'
    Man,
    #[command(hide = true)]
    ServeDisk(ServeDiskArgs),
    #[command(hide = true)]
    Publish(PublishArgs),
}

#[derive(Args, Debug)]
pub struct EnrollArgs {
    /// The vault's address
    #[arg(long, value_name = "HOST:PORT")]
    pub vault: String,
    /// What 'relevo-vault token --role recovery' printed
    #[arg(long)]
    pub token: String,
    /// opening-keys.toml of the tenant
    #[arg(long, value_name = "FILE")]
    pub keys: PathBuf,
    /// Keep wrapped keys wrapped: failover then wants the file that RELEVO_PASSPHRASE_FILE names
    #[arg(long)]
    pub wrap: bool,
    #[command(flatten)]
    pub unlock: UnlockArgs,
    /// This site's name in the vault [default: the host name]
    #[arg(long)]
    pub name: Option<String>,
    /// Print one line of JSON
    #[arg(long)]
    pub json: bool,
}

/// Where images are read from: the vault of this site, unless packs are named.
#[derive(Args, Debug)]
pub struct SourceArgs {
    /// Read the packs of a vault that is gone: its directory, its 'packs', or a copy of either
    #[arg(long, value_name = "DIR", requires = "keys")]
    pub packs: Option<PathBuf>,
    /// The tenant's opening-keys.toml, with --packs
    #[arg(long, value_name = "FILE", requires = "packs")]
    pub keys: Option<PathBuf>,
    /// With --packs: also show recovery points that were deleted; their chunks may be gone
    #[arg(long, requires = "packs")]
    pub include_deleted: bool,
    #[command(flatten)]
    pub unlock: UnlockArgs,
}

#[derive(Args, Debug)]
pub struct ListArgs {
    #[command(flatten)]
    pub source: SourceArgs,
    /// Print one line of JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
pub struct InspectArgs {
    #[command(flatten)]
    pub point: PointArgs,
    #[command(flatten)]
    pub source: SourceArgs,
}

#[derive(Args, Debug)]
pub struct PointArgs {
    /// Name or id of the server
    pub server: String,
    /// latest, an id or its first digits, or a time: the newest point not later than it
    #[arg(long, default_value = "latest", value_name = "POINT")]
    pub point: PointSelector,
    /// Print one line of JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
pub struct RestoreArgs {
    #[command(flatten)]
    pub point: PointArgs,
    #[command(flatten)]
    pub source: SourceArgs,
    /// Which disk, where there are several
    #[arg(long, value_name = "NAME")]
    pub disk: Option<String>,
    /// A file to be made, or a block device
    #[arg(long, value_name = "FILE|DEVICE")]
    pub to: PathBuf,
    /// Overwrite a file that is not empty, or a device that is in use
    #[arg(long)]
    pub force: bool,
    /// With --packs: where data is damaged or missing write zeros, name the place, go on, exit with 1
    #[arg(long, requires = "packs")]
    pub salvage: bool,
}

/// What a plan is made with.
#[derive(Args, Debug)]
pub struct MachineArgs {
    /// A kernel of this site (ELF or bzImage) for images whose own cannot run here
    #[arg(long, value_name = "FILE")]
    pub site_kernel: Option<PathBuf>,
    /// Use the image's own kernel, whatever it costs
    #[arg(long)]
    pub image_kernel: bool,
    /// Memory of the virtual machine in MiB [default: the server's, at most 4096]
    #[arg(long, value_name = "MIB")]
    pub memory: Option<u64>,
    /// Virtual CPUs [default: the server's, at most this host's]
    #[arg(long, value_name = "N")]
    pub cpus: Option<u32>,
}

impl From<&MachineArgs> for MachineRequest {
    fn from(args: &MachineArgs) -> Self {
        Self {
            site_kernel: args.site_kernel.clone(),
            image_kernel: args.image_kernel,
            memory_mib: args.memory,
            cpus: args.cpus,
        }
    }
}

#[derive(Args, Debug)]
pub struct PlanArgs {
    #[command(flatten)]
    pub point: PointArgs,
    #[command(flatten)]
    pub source: SourceArgs,
    #[command(flatten)]
    pub machine: MachineArgs,
    /// Also write kernel, initrd and command line to this directory, for another hypervisor
    #[arg(long, value_name = "DIR")]
    pub write: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub struct FailoverArgs {
    #[command(flatten)]
    pub point: PointArgs,
    #[command(flatten)]
    pub machine: MachineArgs,
    /// netns=NAME[,gateway=CIDR][,address=CIDR] or bridge=NAME[,address=CIDR] or none
    ///
    /// netns makes a network namespace with the gateway's address at the host's end
    /// [default: netns=relevo-SERVER with the server's own default gateway]. bridge puts the
    /// server on a bridge that exists. address is the server's, where the recovery point does not know it;
    /// it is set before its init starts.
    #[arg(long, value_name = "NETWORK", verbatim_doc_comment)]
    pub network: Option<NetworkRequest>,
    /// Let a port of this host's loopback lead to a port of the server: 127.0.0.1:8080=80
    #[arg(long, value_name = "ADDRESS:PORT=PORT")]
    pub publish: Vec<Publish>,
    /// Wait until the console shows this text
    #[arg(long, value_name = "TEXT")]
    pub wait_console: Option<String>,
    /// Wait until the server accepts connections on this TCP port
    #[arg(long, value_name = "PORT")]
    pub wait_tcp: Option<u16>,
    /// Wait until the server answers this HTTP request, with TEXT in the page
    #[arg(long, value_name = "[:PORT]/PATH[=TEXT]", value_parser = Check::http)]
    pub wait_http: Option<Check>,
    /// How long to wait for it, such as 90s, 30m or 2h
    #[arg(long, default_value = "30m", value_parser = duration)]
    pub timeout: Duration,
    /// Run on over what an earlier run of this recovery point wrote
    #[arg(long = "continue")]
    pub resume: bool,
}

#[derive(Args, Debug)]
pub struct ExportArgs {
    #[command(flatten)]
    pub point: PointArgs,
    #[command(flatten)]
    pub source: SourceArgs,
    /// Where to listen: a loopback ADDRESS:PORT, or unix:PATH
    #[arg(long, value_name = "ADDRESS|unix:PATH")]
    pub nbd: NbdAddress,
    /// Keep what clients write in this directory; without it the disks are read-only
    #[arg(long, value_name = "DIR")]
    pub overlay: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub struct StatusArgs {
    /// Name or id of the server [default: all]
    pub server: Option<String>,
    /// Print one line of JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
pub struct StopArgs {
    /// Name or id of the server
    pub server: String,
    /// Throw away what it wrote
    #[arg(long)]
    pub discard: bool,
    /// How long it may take to shut down before it is switched off
    #[arg(long, default_value = "2m", value_parser = duration)]
    pub patience: Duration,
    /// Print one line of JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
pub struct ServeDiskArgs {
    #[arg(long)]
    pub point: relevo_wire::PointId,
    #[arg(long)]
    pub run: PathBuf,
    #[arg(long, default_value_t = 256)]
    pub cache_mib: usize,
}

#[derive(Args, Debug)]
pub struct PublishArgs {
    #[arg(long)]
    pub forward: Publish,
    #[arg(long)]
    pub netns: Option<PathBuf>,
    #[arg(long)]
    pub server: std::net::IpAddr,
    #[arg(long)]
    pub run: PathBuf,
}

fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "ms" => Duration::from_millis(1),
        "s" | "" => Duration::from_secs(1),
        "m" => Duration::from_secs(60),
        "h" => Duration::from_secs(3600),
        "d" => Duration::from_secs(86400),
        _ => return Err(format!("'{text}' is not a duration such as 90s, 30m or 2h")),
    };
    let number: u32 = digits
        .parse()
        .map_err(|_| format!("'{text}' is not a duration such as 90s, 30m or 2h"))?;
    Ok(unit.saturating_mul(number))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_holds_together() {
        Cli::command().debug_assert();
    }

    /// Guards that the manual tells of every option that can be given.
    #[test]
    fn the_manual_has_every_command_with_its_options() {
        let page = crate::command::words::manual(Cli::command()).unwrap();
        assert!(page.contains("COMMAND FAILOVER"), "{page}");
        assert!(page.contains("wait\\-http"), "{page}");
        assert!(page.contains("COMMAND KEYS FROM-PAPER"), "{page}");
        let hidden = page.to_lowercase().contains("serve\\-disk");
        assert!(!hidden, "hidden commands are for this program only");
    }

    #[test]
    fn durations() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("30m"), Ok(Duration::from_secs(1800)));
        assert_eq!(duration("5"), Ok(Duration::from_secs(5)));
        for wrong in ["", "m", "-1s", "1w", "1.5h", "9999999999s"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
