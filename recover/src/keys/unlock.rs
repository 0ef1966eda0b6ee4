//! What opens a wrapped key file: a passphrase or a recovery key, from files or from a person.

use std::io::Read;
use std::path::{Path, PathBuf};

use relevo_wire::key::{
    KeyError, KeyFile, OpeningKeys, Passphrase, RecoveryKey, ShareError, Unlock, WrappedKeys, typed,
};
use zeroize::Zeroizing;

use super::terminal::Terminal;
use crate::failure::Failure;

/// Names a file with the passphrase, where no option does.
pub const PASSPHRASE_FILE: &str = "RELEVO_PASSPHRASE_FILE";
/// How often a passphrase is asked for.
const TRIES: usize = 3;
/// Most bytes of a file with a passphrase or typed lines.
const MOST_BYTES: u64 = 1 << 20;

/// Where to look for what opens.
#[derive(Clone, Debug, Default)]
pub struct Unlocker {
    /// A file whose first line is the passphrase.
    pub passphrase_file: Option<PathBuf>,
    /// Files with the typed lines of a recovery key or of shares; `-` is standard input.
    pub recovery_files: Vec<PathBuf>,
    /// Whether somebody may be asked on the terminal.
    pub may_ask: bool,
}

/// Keys that were opened, and by what, so that they can be wrapped by the same again.
pub struct Unlocked {
    /// The keys.
    pub keys: OpeningKeys,
    /// What opened them; nothing when they were not wrapped.
    pub by: Option<Unlock>,
}

impl Unlocker {
    /// Asks nobody: only the file that the environment names, if any.
    pub fn unattended() -> Self {
        Self::default()
    }

    /// Reads and opens a key file.
    pub fn read(&self, path: &Path) -> Result<OpeningKeys, Failure> {
        Ok(self.open(KeyFile::read(path)?, path)?.keys)
    }

    /// Opens keys that were read from `path`.
    pub fn open(&self, file: KeyFile, path: &Path) -> Result<Unlocked, Failure> {
        let wrapped = match file {
            KeyFile::Open(keys) => return Ok(Unlocked { keys, by: None }),
            KeyFile::Wrapped(wrapped) => wrapped,
        };
        if !self.recovery_files.is_empty() {
            let key = read_recovery_key(&self.recovery_files)?;
            return open_by(&wrapped, Unlock::Recovery(key));
        }
        let file = self.passphrase_file.clone();
        if let Some(file) = file.or_else(|| std::env::var_os(PASSPHRASE_FILE).map(PathBuf::from)) {
            let passphrase = read_passphrase(&file)?;
            return open_by(&wrapped, Unlock::Passphrase(passphrase));
        }
        match self.may_ask.then(Terminal::open).flatten() {
            Some(terminal) => ask(&wrapped, path, terminal),
            None => Err(KeyError::Wrapped {
                path: path.into(),
                ways: wrapped.ways(),
            }
            .into()),
        }
    }
}

fn open_by(wrapped: &WrappedKeys, by: Unlock) -> Result<Unlocked, Failure> {
    let keys = wrapped.open(&by)?;
    let by = Some(by);
    Ok(Unlocked { keys, by })
}

fn ask(wrapped: &WrappedKeys, path: &Path, mut terminal: Terminal) -> Result<Unlocked, Failure> {
    if !wrapped.takes_passphrase() {
        let key = ask_recovery_key(wrapped, path, &mut terminal)?;
        return open_by(wrapped, Unlock::Recovery(key));
    }
    let question = format!("Passphrase of {}: ", path.display());
    for left in (0..TRIES).rev() {
        let passphrase = Passphrase::new(&terminal.ask_secret(&question)?);
        let by = Unlock::Passphrase(passphrase);
        match wrapped.open(&by) {
            Ok(keys) => return Ok(Unlocked { keys, by: Some(by) }),
            Err(KeyError::WrongPassphrase) if left > 0 => {
                terminal.say("That passphrase does not open them. Once more.\n");
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(KeyError::WrongPassphrase.into())
}

/// Line by line, so that a mistake is met where it is made.
fn ask_recovery_key(
    wrapped: &WrappedKeys,
    path: &Path,
    terminal: &mut Terminal,
) -> Result<RecoveryKey, Failure> {
    terminal.say(&format!(
        "{} is opened by {}.\nType the lines of the recovery key, or of as many shares as it takes.\n",
        path.display(),
        wrapped.ways()
    ));
    let mut texts = Vec::new();
    let mut typing = typed::Typing::default();
    loop {
        let line = terminal.ask(&format!("line {:02}> ", typing.next_number()))?;
        if line.trim().is_empty() {
            continue;
        }
        let numbered = match line.trim_start().starts_with(|c: char| c.is_ascii_digit()) {
            true => line.clone(),
            false => Zeroizing::new(format!("{:02} {}", typing.next_number(), *line)),
        };
        match typing.line(&numbered) {
            Ok(None) => continue,
            Ok(Some(text)) => texts.push(text),
            Err(error) => {
                terminal.say(&format!("{error}. Type it again.\n"));
                continue;
            }
        }
        match RecoveryKey::from_typed(&texts) {
            Ok(key) => return Ok(key),
            Err(KeyError::Share(error @ ShareError::TooFew { .. })) => {
                terminal.say(&format!("{error}. Now the next share.\n"));
            }
            Err(error) => {
                terminal.say(&format!("{error}. That one was left out; type another.\n"));
                texts.pop();
            }
        }
    }
}

/// The first line of a file.
pub fn read_passphrase(path: &Path) -> Result<Passphrase, Failure> {
    let text = read_text(path)?;
    let line = text.lines().next().unwrap_or_default();
    if line.is_empty() {
        let cause = format!(
            "{}: its first line, the passphrase, is empty",
            path.display()
        );
        return Err(Failure::new(cause, "write the passphrase into it"));
    }
    Ok(Passphrase::new(line))
}

/// A recovery key from the lines in these files: whole, or in shares.
pub fn read_recovery_key(paths: &[PathBuf]) -> Result<RecoveryKey, Failure> {
    let mut texts = Vec::new();
    for path in paths {
        let read = typed::read(&read_text(path)?).map_err(KeyError::from);
        let at = path.display().to_string();
        texts.extend(read.map_err(|e| Failure::from(e).while_doing(&at))?);
    }
    Ok(RecoveryKey::from_typed(&texts)?)
}

/// A file's text; standard input's for `-`.
pub fn read_text(path: &Path) -> Result<Zeroizing<String>, Failure> {
    let mut text = Zeroizing::new(String::new());
    let read = match path.as_os_str() == "-" {
        true => std::io::stdin()
            .lock()
            .take(MOST_BYTES)
            .read_to_string(&mut text),
        false => std::fs::File::open(path)
            .and_then(|file| file.take(MOST_BYTES).read_to_string(&mut text)),
    };
    read.map_err(|e| Failure::io(path, &e))?;
    Ok(text)
}

/// Asks for a new passphrase, twice.
pub fn ask_new_passphrase() -> Result<Passphrase, Failure> {
    let Some(mut terminal) = Terminal::open() else {
        return Err(Failure::new(
            "there is no terminal to ask for a new passphrase",
            "give it in a file with --new-passphrase-file",
        ));
    };
    for _ in 0..TRIES {
        let first = Passphrase::new(&terminal.ask_secret("New passphrase: ")?);
        if let Err(error) = first.check_long_enough() {
            terminal.say(&format!("{error}.\n"));
            continue;
        }
        if Passphrase::new(&terminal.ask_secret("The same again: ")?) == first {
            return Ok(first);
        }
        terminal.say("They differ. Once more.\n");
    }
    Err(Failure::new(
        "no new passphrase was given",
        "start the command again",
    ))
}
