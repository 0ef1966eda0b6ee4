//! The commands about what is intact: verify, heal, scrub.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Subcommand;

use relevo_vault::audit::Act;
use relevo_vault::directory::Directory;
use relevo_vault::error::VaultError;
use relevo_vault::scrub::{self, Pace};
use relevo_vault::settings::SettingsWatch;
use relevo_vault::{heal, rebuild, verify};
use relevo_wire::Timestamp;

use crate::arguments::Place;
use crate::run::{note, show};

/// Commands about what is intact.
#[derive(Debug, Subcommand)]
pub enum Checking {
    /// Prove every recovery point complete and every byte intact; name what is not, and heal it.
    ///
    /// Works while the vault serves. Each damage is named with its pack and offset, and with the
    /// recovery points, disks and offsets that it hits. Then it is healed as 'heal' does. Ends
    /// with 1 when there was damage, healed or not.
    Verify {
        #[command(flatten)]
        place: Place,
        /// Print facts as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Check everything, heal what is damaged, and say what is left.
    ///
    /// In this order: from parity, where settings.toml has [parity]; from another vault, where
    /// it has [[heal-from]]; records from the catalogue; at last chunks are forgotten, so that
    /// agents that still have them send them again at the next backup. A vault that serves does
    /// this by itself. Ends with 0 when nothing is left.
    #[command(after_help = "\
relevo-vault heal --dir /srv/vault             what can be healed without loss
relevo-vault heal --dir /srv/vault --give-up   go on without packs that will not come back")]
    Heal {
        #[command(flatten)]
        place: Place,
        /// Go on without packs that are missing and without damaged bytes of which nobody can
        /// tell what they were. What agents still have they send again; recovery points whose
        /// chunks are in no server any more stay damaged, and 'verify' names them.
        #[arg(long)]
        give_up: bool,
        /// Print facts as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Say how the continuous check stands: when everything was read last, and how fast it goes.
    ///
    /// Ends with 1 when bytes were not read within the days that settings.toml promises.
    Scrub {
        #[command(flatten)]
        place: Place,
        /// Print facts as JSON.
        #[arg(long)]
        json: bool,
    },
}

/// Runs one of them.
pub fn run(command: Checking) -> Result<ExitCode, VaultError> {
    let progress = std::io::stderr().is_terminal();
    let code = |good: bool| match good {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    };
    match command {
        Checking::Verify { place, json } => {
            let directory = Directory::open(&place.dir)?;
            let report = verify::verify(&directory, progress, false)?;
            if !report.intact {
                let found = "found by verify".into();
                note(&directory, Act::DamageFound, "packs", found)?;
            }
            show(json, &report, || verify::text(&report))?;
            Ok(code(report.intact))
        }
        Checking::Heal {
            place,
            give_up,
            json,
        } => {
            let directory = Directory::open(&place.dir)?;
            let report = verify::verify(&directory, progress, give_up)?;
            show(json, &report, || verify::text(&report))?;
            let healed = report
                .healed
                .and_then(|healed| serde_json::from_value::<heal::Healed>(healed).ok());
            Ok(code(healed.is_none_or(|healed| healed.is_whole())))
        }
        Checking::Scrub { place, json } => {
            let directory = Directory::open(&place.dir)?;
            let settings = SettingsWatch::open(&place.dir)?.now();
            let beside = rebuild::open_beside(&directory)?;
            let vault = directory.file().vault;
            let files = scrub::files(&directory.volume(), vault, &beside.catalogue)?;
            let pace = Pace::of(
                &files,
                Timestamp::now(),
                settings.scrub.every_days.get(),
                settings.scrub.rate.bytes_per_second(),
            );
            show(json, &pace, || pace.to_string())?;
            Ok(code(pace.kept))
        }
    }
}
