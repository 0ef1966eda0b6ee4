//! What can be asked about keys.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::keys::Unlocker;
use crate::keys::lock::Split;

/// What opens wrapped keys.
#[derive(Args, Debug, Clone, Default)]
pub struct UnlockArgs {
    /// File whose first line is the passphrase of wrapped keys [default: the file that
    /// RELEVO_PASSPHRASE_FILE names; else it is asked for on the terminal]
    #[arg(long, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
    /// File with the typed lines of a recovery key or of shares; '-' is standard input; repeatable
    #[arg(long, value_name = "FILE")]
    pub recovery_key_file: Vec<PathBuf>,
}

impl From<&UnlockArgs> for Unlocker {
    fn from(args: &UnlockArgs) -> Self {
        Self {
            passphrase_file: args.passphrase_file.clone(),
            recovery_files: args.recovery_key_file.clone(),
            may_ask: true,
        }
    }
}

/// How keys are to be wrapped.
#[derive(Args, Debug, Clone, Default)]
pub struct LockArgs {
    /// Wrap the opening keys by a passphrase, which is asked for
    #[arg(long)]
    pub passphrase: bool,
    /// The same with the first line of this file as the passphrase
    #[arg(long, value_name = "FILE")]
    pub new_passphrase_file: Option<PathBuf>,
    /// Wrap the opening keys by a new recovery key, which is written as a page to be printed
    #[arg(long)]
    pub recovery_key: bool,
    /// The same with the recovery key split into N pages, any K of which give it, such as 3/5
    #[arg(long, value_name = "K/N")]
    pub shares: Option<Split>,
}

impl LockArgs {
    pub fn wants_passphrase(&self) -> bool {
        self.passphrase || self.new_passphrase_file.is_some()
    }

    pub fn wants_recovery_key(&self) -> bool {
        self.recovery_key || self.shares.is_some()
    }
}

#[derive(Args, Debug)]
pub struct KeygenArgs {
    /// Directory for opening-keys.toml and sealing-keys.toml; existing keys are never replaced
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    #[command(flatten)]
    pub lock: LockArgs,
    /// Print one line of JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Subcommand, Debug)]
pub enum KeysCommand {
    /// Say whose keys a file has, their generations, and what opens it; opens nothing
    Show(ShowArgs),
    /// Write a page to be printed with all that is needed to open the images
    Paper(PaperArgs),
    /// Make the key file again from the typed lines of a paper, or its scanned QR code
    FromPaper(FromPaperArgs),
    /// Begin a new generation of keys; what was sealed before still opens
    Rotate(RotateArgs),
    /// Wrap the same keys in other ways: another passphrase, another recovery key, or none
    Rewrap(RewrapArgs),
    /// Write the sealing keys that belong to opening keys, for agents
    Sealing(SealingArgs),
    /// Replace the keys in this site's state directory with newer ones of the same tenant
    Install(InstallArgs),
}

#[derive(Args, Debug)]
pub struct ShowArgs {
    /// opening-keys.toml
    #[arg(long, value_name = "FILE")]
    pub keys: PathBuf,
    /// Print one line of JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
pub struct PaperArgs {
    /// opening-keys.toml; as it is wrapped, so is the paper
    #[arg(long, value_name = "FILE")]
    pub keys: PathBuf,
    /// Directory for key-paper.html and key-paper.txt; existing papers are never replaced
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Print the keys so that the paper alone opens every image
    #[arg(long)]
    pub unwrapped: bool,
    #[command(flatten)]
    pub unlock: UnlockArgs,
    /// Print one line of JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
pub struct FromPaperArgs {
    /// The typed lines; '-' is standard input
    #[arg(value_name = "FILE", default_value = "-")]
    pub from: PathBuf,
    /// The key file to be made; an existing one is never replaced
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Print one line of JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
pub struct RotateArgs {
    /// opening-keys.toml; it is replaced by one with the new generation as well
    #[arg(long, value_name = "FILE")]
    pub keys: PathBuf,
    /// Also make a new tenant secret
    ///
    /// Chunks that an agent knows to be stored stay as they are and are not sent again; what is
    /// sealed from then on is sealed under the new secret.
    #[arg(long)]
    pub secret: bool,
    /// Where the new sealing keys go [default: sealing-keys.toml beside --keys]
    #[arg(long, value_name = "FILE")]
    pub sealing: Option<PathBuf>,
    #[command(flatten)]
    pub unlock: UnlockArgs,
    /// Print one line of JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
pub struct RewrapArgs {
    /// opening-keys.toml; it is replaced
    #[arg(long, value_name = "FILE")]
    pub keys: PathBuf,
    #[command(flatten)]
    pub lock: LockArgs,
    /// From now on no passphrase opens it
    #[arg(long, conflicts_with_all = ["passphrase", "new_passphrase_file"])]
    pub drop_passphrase: bool,
    /// The recovery keys so far open it no more
    #[arg(long)]
    pub drop_recovery_key: bool,
    /// Directory for the pages of a new recovery key [default: beside --keys]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    #[command(flatten)]
    pub unlock: UnlockArgs,
    /// Print one line of JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
pub struct SealingArgs {
    /// opening-keys.toml
    #[arg(long, value_name = "FILE")]
    pub keys: PathBuf,
    /// The file to be made; an existing one is never replaced
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    #[command(flatten)]
    pub unlock: UnlockArgs,
    /// Print one line of JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
pub struct InstallArgs {
    /// opening-keys.toml
    #[arg(long, value_name = "FILE")]
    pub keys: PathBuf,
    /// Keep them wrapped: failover then wants the file that RELEVO_PASSPHRASE_FILE names
    #[arg(long)]
    pub wrap: bool,
    #[command(flatten)]
    pub unlock: UnlockArgs,
    /// Print one line of JSON
    #[arg(long)]
    pub json: bool,
}
