//! What each command does, and what it prints.

use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use clap::CommandFactory;
use serde::Serialize;
use tracing_subscriber::EnvFilter;

use relevo_vault::audit::{Act, Audit, Event};
use relevo_vault::collect::Collector;
use relevo_vault::control::{ControlServer, Request};
use relevo_vault::directory::Directory;
use relevo_vault::error::VaultError;
use relevo_vault::ingest::Vault;
use relevo_vault::metrics::MetricsServer;
use relevo_vault::retention::upkeep::Upkeep;
use relevo_vault::scrub::Scrub;
use relevo_vault::server::Server;
use relevo_vault::settings::SettingsWatch;
use relevo_vault::{images, policies, rebuild, token};
use relevo_wire::Timestamp;

use crate::arguments::{Arguments, Command};

/// Runs the command.
pub fn run(arguments: Arguments) -> ExitCode {
    log(arguments.verbose);
    match command(arguments.command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            eprintln!("remedy: {}", error.remedy());
            match error {
                VaultError::Usage { .. } => ExitCode::from(2),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

fn log(verbose: u8) {
    let level = match verbose {
        0 => "warn,relevo_vault=info",
        1 => "info,relevo_vault=debug",
        _ => "debug",
    };
    let filter = EnvFilter::try_from_env("RELEVO_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
}

fn command(command: Command) -> Result<ExitCode, VaultError> {
    match command {
        Command::Init { place, name, json } => init(&place.dir, name, json),
        Command::Serve {
            place,
            listen,
            metrics,
            json,
        } => serve(&place.dir, listen, metrics, json),
        Command::Token {
            place,
            role,
            valid,
            tenant,
            again,
            json,
        } => {
            let wanted = token::Wanted {
                role,
                valid,
                tenant,
                again,
            };
            let made = token::make(&Directory::open(&place.dir)?, &wanted)?;
            show(json, &made, || {
                eprintln!("good for one enrolment until {}", made.expires);
                format!("{}\n", made.token)
            })
        }
        Command::Images { place, json } => {
            let list = images::list(&Directory::open(&place.dir)?)?;
            show(json, &list, || images::table(&list, Timestamp::now()))
        }
        Command::Policy {
            place,
            server,
            json,
        } => {
            let list = policies::list(&Directory::open(&place.dir)?, server.as_deref())?;
            show(json, &list, || policies::page(&list, Timestamp::now()))
        }
        Command::Collect {
            place,
            dry_run,
            accept_loss,
            json,
        } => {
            let request = Request::Collect {
                dry_run,
                accept_loss,
            };
            crate::keeping::ask(&place, json, request)
        }
        Command::Rebuild { place, json } => {
            let directory = Directory::open(&place.dir)?;
            let rebuilt = rebuild::rebuild(&directory)?;
            let (points, packs) = (rebuilt.points, rebuilt.packs);
            let result = format!("{points} recovery points from {packs} packs");
            note(&directory, Act::Rebuilt, "catalogue", result)?;
            show(json, &rebuilt, || {
                format!(
                    "{} recovery points from {} packs\n",
                    rebuilt.points, rebuilt.packs
                )
            })?;
            Ok(match rebuilt.damage.is_empty() {
                true => ExitCode::SUCCESS,
                false => ExitCode::FAILURE,
            })
        }
        Command::Governing(command) => crate::governing::run(command),
        Command::Checking(command) => crate::checking::run(command),
        Command::Keeping(command) => crate::keeping::run(command),
        Command::Completions { shell } => {
            let mut command = Arguments::command();
            clap_complete::generate(shell, &mut command, "relevo-vault", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
        Command::Man => {
            let page = clap_mangen::Man::new(Arguments::command());
            page.render(&mut std::io::stdout())
                .map_err(|e| VaultError::io("standard output", e))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn init(dir: &Path, name: Option<String>, json: bool) -> Result<ExitCode, VaultError> {
    let from_dir = || dir.file_name().map(|n| n.to_string_lossy().into_owned());
    let name = name.or_else(from_dir).unwrap_or_else(|| "vault".into());
    let made = Directory::create(dir, &name)?;
    show(json, made.file(), || {
        format!(
            "vault '{name}' made in {}\nstart it: relevo-vault serve --dir {}\n",
            dir.display(),
            dir.display()
        )
    })
}

fn serve(
    dir: &Path,
    listen: SocketAddr,
    metrics: Option<SocketAddr>,
    json: bool,
) -> Result<ExitCode, VaultError> {
    let directory = Directory::open(dir)?;
    let _lock = directory.lock()?;
    let settings = Arc::new(SettingsWatch::open(dir)?);
    let store = rebuild::open_store(&directory)?;
    let id = directory.file().vault;
    let audit = Arc::new(Audit::open(dir, id));
    let vault = Vault::new(id, store, directory.authority()?)
        .with_settings(settings.clone())
        .with_audit(audit);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| VaultError::io(dir, e))?;
    runtime.block_on(async {
        let server = Server::listen(vault, id, directory.authority()?, listen)?;
        let stop = stop_signal().map_err(|e| VaultError::io(dir, e))?;
        reload_at_hangup(settings).map_err(|e| VaultError::io(dir, e))?;
        tokio::spawn(ControlServer::bind(dir)?.run(server.vault()));
        let vault = server.vault();
        let upkeep = Upkeep::start(server.vault())?;
        let scrub = Scrub::start(server.vault())?;
        let collector = Collector::start(server.vault())?;
        let stop = async move {
            stop.await;
            vault.stop();
            // While the store is still open: it writes a last entry.
            let _ = tokio::task::spawn_blocking(|| {
                scrub.stop();
                drop(collector);
                upkeep.stop();
            })
            .await;
        };
        let address = server.address()?;
        tracing::info!("listening on {address}");
        let metrics = match metrics {
            Some(wanted) => {
                let bound = MetricsServer::bind(wanted).await?;
                let (vault, at) = (server.vault(), bound.address()?);
                tracing::info!("metrics at http://{at}/metrics");
                tokio::spawn(bound.run(move || vault.families()));
                Some(at)
            }
            None => None,
        };
        if json {
            #[derive(Serialize)]
            struct Ready {
                listening: SocketAddr,
                #[serde(skip_serializing_if = "Option::is_none")]
                metrics: Option<SocketAddr>,
            }
            let listening = address;
            show(true, &Ready { listening, metrics }, String::new)?;
        }
        notify_ready();
        server.run(stop).await
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Handlers are in place when this returns; the future ends with the first signal.
fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// Reads the settings again at SIGHUP.
fn reload_at_hangup(settings: Arc<SettingsWatch>) -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            settings.reload();
        }
    });
    Ok(())
}

/// Tells a service manager that asked for it (sd_notify(3)) that the vault serves.
fn notify_ready() {
    if let Some(path) = std::env::var_os("NOTIFY_SOCKET")
        && let Ok(socket) = std::os::unix::net::UnixDatagram::unbound()
        && let Err(error) = socket.send_to(b"READY=1", &path)
    {
        tracing::warn!(%error, "the service manager could not be told");
    }
}

/// Notes what a command did that has no vault open.
pub fn note(directory: &Directory, act: Act, on: &str, result: String) -> Result<(), VaultError> {
    let audit = Audit::open(directory.path(), directory.file().vault);
    audit.record(&Event::new("local", act, on).result(result))?;
    Ok(())
}

/// Prints facts: as one line of JSON, or as `text` makes them.
pub fn show(
    json: bool,
    facts: &impl Serialize,
    text: impl FnOnce() -> String,
) -> Result<ExitCode, VaultError> {
    let line = match json {
        true => serde_json::to_string(facts)
            .map(|line| line + "\n")
            .map_err(|e| VaultError::io("standard output", e.into()))?,
        false => text(),
    };
    let mut out = std::io::stdout().lock();
    out.write_all(line.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|e| VaultError::io("standard output", e))?;
    Ok(ExitCode::SUCCESS)
}
