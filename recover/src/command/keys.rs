//! Keys: made, shown, printed, typed again, changed.

use std::path::{Path, PathBuf};

use relevo_wire::key::{KeyFile, OpeningKeys, RecoveryKey, SealingKeys, Unlock, typed};
use serde_json::json;

use super::key_options::{
    FromPaperArgs, InstallArgs, KeygenArgs, KeysCommand, LockArgs, PaperArgs, RewrapArgs,
    RotateArgs, SealingArgs, ShowArgs, UnlockArgs,
};
use super::words::{print, print_json, table};
use crate::failure::Failure;
use crate::keys::lock::{Locks, write_recovery_pages, write_secret};
use crate::keys::paper::Paper;
use crate::keys::unlock::{ask_new_passphrase, read_passphrase, read_text};
use crate::keys::{Unlocker, change};
use crate::site::{Site, make_private};

pub fn run(state: &Path, command: &KeysCommand) -> Result<(), Failure> {
    match command {
        KeysCommand::Show(args) => show(args),
        KeysCommand::Paper(args) => paper(args),
        KeysCommand::FromPaper(args) => from_paper(args),
        KeysCommand::Rotate(args) => rotate(args),
        KeysCommand::Rewrap(args) => rewrap(args),
        KeysCommand::Sealing(args) => sealing(args),
        KeysCommand::Install(args) => install(state, args),
    }
}

pub fn keygen(args: &KeygenArgs) -> Result<(), Failure> {
    change::free_files(&args.out)?;
    let keys = OpeningKeys::generate()?;
    let (mut locks, pages) = (Locks::default(), Some(args.out.as_path()));
    let made = add_locks(&mut locks, &args.lock, &keys, pages)?;
    let files = change::generate(&args.out, &locks, &keys)?;
    if args.json {
        return print_json(&json!({
            "opening": files.opening,
            "sealing": files.sealing,
            "wrapped": !locks.is_empty(),
            "recovery_pages": made.pages,
        }));
    }
    let mut text = format!(
        "{}\n    opens every image: for recovery sites only. Keep a copy where no disaster reaches it;\n    \
         without it no image can ever be opened.\n{}\n    seals images and opens none: for the agents.\n",
        files.opening.display(),
        files.sealing.display()
    );
    text.push_str(&made.words());
    let opening = files.opening.display();
    text.push_str(&match locks.is_empty() {
        true => format!(
            "\nThe opening keys are unwrapped: whoever copies that file reads every image. Better:\n  \
             relevo-recover keys rewrap --keys {opening} --shares 3/5\n  \
             relevo-recover keys paper --keys {opening} --out DIR      then print, and delete DIR\n",
        ),
        false => format!(
            "\nNow print the keys, and keep the paper apart from what opens it:\n  \
             relevo-recover keys paper --keys {opening} --out DIR      then print, and delete DIR\n",
        ),
    });
    print(&text)
}

/// A recovery key that was made for somebody.
#[derive(Default)]
struct NewRecoveryKey {
    id: Option<String>,
    pages: Vec<PathBuf>,
}

impl NewRecoveryKey {
    fn words(&self) -> String {
        let Some(id) = &self.id else {
            return String::new();
        };
        let mut text = format!(
            "\nRecovery key {id}: print each of these pages, give each to another\nperson or safe, and delete the files.\n"
        );
        for page in &self.pages {
            text.push_str(&format!("    {}\n", page.display()));
        }
        text
    }
}

/// Adds the ways in that the options ask for; makes the pages of a new recovery key in `dir`.
fn add_locks(
    locks: &mut Locks,
    args: &LockArgs,
    keys: &OpeningKeys,
    dir: Option<&Path>,
) -> Result<NewRecoveryKey, Failure> {
    if args.wants_passphrase() {
        let passphrase = match &args.new_passphrase_file {
            Some(path) => read_passphrase(path)?,
            None => ask_new_passphrase()?,
        };
        passphrase.check_long_enough()?;
        locks.passphrase = Some(passphrase);
    }
    let mut made = NewRecoveryKey::default();
    if args.wants_recovery_key() {
        let key = RecoveryKey::generate();
        let dir = dir.unwrap_or(Path::new("."));
        make_private(dir).map_err(|e| Failure::io(dir, &e))?;
        made.pages = write_recovery_pages(&key, args.shares, keys.sealing.tenant, dir)?;
        made.id = Some(key.public()?.id().to_string());
        locks.recovery.push(key.public()?);
    }
    Ok(made)
}

fn show(args: &ShowArgs) -> Result<(), Failure> {
    let file = KeyFile::read(&args.keys)?;
    let ways = match &file {
        KeyFile::Wrapped(wrapped) => Some(wrapped.ways()),
        KeyFile::Open(_) => None,
    };
    let generations = file.generations();
    if args.json {
        let generations: Vec<_> = generations
            .iter()
            .map(|(number, made)| json!({"number": number, "made": made}))
            .collect();
        return print_json(&json!({
            "tenant": file.tenant(),
            "wrapped": ways.is_some(),
            "opened_by": ways,
            "generations": generations,
        }));
    }
    let mut rows = vec![
        vec!["tenant".into(), file.tenant().to_string()],
        vec![
            "opened by".into(),
            ways.unwrap_or("nothing further: unwrapped".into()),
        ],
    ];
    for (number, made) in generations {
        let made = made.map_or("before generations were dated".into(), |m| m.to_string());
        rows.push(vec![format!("generation {number}"), made]);
    }
    print(&table(&rows))
}

fn paper(args: &PaperArgs) -> Result<(), Failure> {
    let mut file = KeyFile::read(&args.keys)?;
    if args.unwrapped {
        let unlocked = Unlocker::from(&args.unlock).open(file, &args.keys)?;
        file = KeyFile::Open(unlocked.keys);
    } else if let KeyFile::Open(_) = file {
        return Err(Failure::new(
            "the keys are not wrapped, so that this paper alone would open every image",
            "wrap them first with 'relevo-recover keys rewrap --recovery-key' (or --shares 3/5, or \
             --passphrase); or, for a paper in a safe of its own, say --unwrapped",
        ));
    }
    let page = Paper::of(&file)?;
    make_private(&args.out).map_err(|e| Failure::io(&args.out, &e))?;
    let (html, text) = (
        args.out.join("key-paper.html"),
        args.out.join("key-paper.txt"),
    );
    write_secret(&html, &page.html)?;
    write_secret(&text, &page.text)?;
    if args.json {
        return print_json(&json!({"html": html, "text": text, "lines": file.lines()?.len()}));
    }
    print(&format!(
        "{}\n    print it and try it once: scan or type it, and list the images with it.\n{}\n    the same as \
         text. Delete both when the paper is where it belongs.\n",
        html.display(),
        text.display()
    ))
}

fn from_paper(args: &FromPaperArgs) -> Result<(), Failure> {
    let texts = typed::read(&read_text(&args.from)?).map_err(relevo_wire::key::KeyError::from)?;
    let [one] = texts.as_slice() else {
        return Err(Failure::new(
            format!("these are the lines of {} papers", texts.len()),
            "give one at a time",
        ));
    };
    let file = KeyFile::from_typed(one)?;
    if args.out.exists() {
        return Err(Failure::new(
            format!("{} exists already", args.out.display()),
            "choose another --out: existing keys are never replaced",
        ));
    }
    file.write(&args.out)?;
    if args.json {
        let wrapped = matches!(file, KeyFile::Wrapped(_));
        return print_json(&json!({"keys": args.out, "tenant": file.tenant(), "wrapped": wrapped}));
    }
    let then = match &file {
        KeyFile::Wrapped(wrapped) => format!("opened by {}", wrapped.ways()),
        KeyFile::Open(_) => "not wrapped: it opens every image".into(),
    };
    print(&format!(
        "{}\n    the keys of tenant {}, {then}.\n    relevo-recover list --packs DIR --keys {}   lists what the \
         packs in DIR hold\n",
        args.out.display(),
        file.tenant(),
        args.out.display()
    ))
}

fn rotate(args: &RotateArgs) -> Result<(), Failure> {
    let file = KeyFile::read(&args.keys)?;
    let unlocked = Unlocker::from(&args.unlock).open(file.clone(), &args.keys)?;
    let locks = kept_locks(&file, unlocked.by.as_ref())?;
    let sealing = match &args.sealing {
        Some(path) => path.clone(),
        None => args.keys.with_file_name("sealing-keys.toml"),
    };
    let keys = change::rotate(&args.keys, unlocked, &locks, args.secret, &sealing)?;
    if args.json {
        return print_json(&json!({
            "opening": args.keys,
            "sealing": sealing,
            "generation": keys.sealing.generation,
            "new_secret": args.secret,
        }));
    }
    print(&format!(
        "Generation {} of the keys of tenant {} begins. Now, in this order:\n  \
         1. at every recovery site   relevo-recover keys install --keys {}\n  \
         2. on every server          relevo-agent keys --keys {}\n  \
         3. anew                     relevo-recover keys paper --keys {} --out DIR\n\
         A site that lacks the new keys cannot open what agents seal with them. Older papers open what\n\
         was sealed before.\n",
        keys.sealing.generation,
        keys.sealing.tenant,
        args.keys.display(),
        sealing.display(),
        args.keys.display(),
    ))
}

/// The ways into a file, all of which a new one shall have as well.
fn kept_locks(file: &KeyFile, by: Option<&Unlock>) -> Result<Locks, Failure> {
    let locks = Locks::of(file, by);
    match file {
        KeyFile::Wrapped(wrapped) if wrapped.takes_passphrase() && locks.passphrase.is_none() => {
            Err(Failure::new(
                "a passphrase opens these keys as well, and without it they cannot be wrapped by it again",
                "open them with the passphrase, or take it away first with 'relevo-recover keys rewrap \
                 --drop-passphrase'",
            ))
        }
        _ => Ok(locks),
    }
}

fn rewrap(args: &RewrapArgs) -> Result<(), Failure> {
    let asked = args.lock.wants_passphrase() || args.lock.wants_recovery_key();
    if !asked && !args.drop_passphrase && !args.drop_recovery_key {
        return Err(Failure::new(
            "nothing is to be changed",
            "say --passphrase, --recovery-key, --shares K/N, --drop-passphrase or --drop-recovery-key",
        ));
    }
    let file = KeyFile::read(&args.keys)?;
    let unlocked = Unlocker::from(&args.unlock).open(file.clone(), &args.keys)?;
    let by = unlocked.by.as_ref();
    let replaced = args.drop_passphrase || args.lock.wants_passphrase();
    let mut locks = match replaced {
        true => Locks::of(&file, by),
        false => kept_locks(&file, by)?,
    };
    if args.drop_passphrase {
        locks.passphrase = None;
    }
    if args.drop_recovery_key {
        locks.recovery.clear();
    }
    let beside = args.keys.parent().filter(|dir| !dir.as_os_str().is_empty());
    let pages = args.out.as_deref().or(beside);
    let made = add_locks(&mut locks, &args.lock, &unlocked.keys, pages)?;
    let file = change::rewrap(&args.keys, unlocked, &locks)?;
    let ways = match &file {
        KeyFile::Wrapped(wrapped) => Some(wrapped.ways()),
        KeyFile::Open(_) => None,
    };
    if args.json {
        return print_json(&json!({
            "keys": args.keys,
            "opened_by": ways,
            "recovery_pages": made.pages,
        }));
    }
    let mut text = match ways {
        Some(ways) => format!("{} is opened by {ways}.\n", args.keys.display()),
        None => format!(
            "{} is not wrapped any more: whoever copies it reads every image.\n",
            args.keys.display()
        ),
    };
    text.push_str(&made.words());
    text.push_str(
        "\nOther copies of the file, and papers, are opened by what opened them before: destroy them. Who\n\
         opened one keeps the keys: then begin a new generation with 'relevo-recover keys rotate'.\n",
    );
    print(&text)
}

fn sealing(args: &SealingArgs) -> Result<(), Failure> {
    let keys: SealingKeys = Unlocker::from(&args.unlock).read(&args.keys)?.sealing;
    if args.out.exists() {
        return Err(Failure::new(
            format!("{} exists already", args.out.display()),
            "choose another --out: existing keys are never replaced",
        ));
    }
    keys.write(&args.out)?;
    if args.json {
        return print_json(&json!({"sealing": args.out, "generation": keys.generation}));
    }
    print(&format!(
        "{}\n    seals images and opens none: for the agents.\n",
        args.out.display()
    ))
}

fn install(state: &Path, args: &InstallArgs) -> Result<(), Failure> {
    let file = for_state(&args.keys, args.wrap, &args.unlock)?;
    Site::take_keys(state, &file)?;
    if args.json {
        let generation = file.generations().first().map(|g| g.0);
        return print_json(&json!({"state": state, "generation": generation}));
    }
    print(&format!(
        "The site in {} opens images with these keys from now on; servers that run go on.\n",
        state.display()
    ))
}

/// A key file as it goes into a state directory: open, unless it is to stay wrapped.
pub fn for_state(path: &Path, wrap: bool, unlock: &UnlockArgs) -> Result<KeyFile, Failure> {
    let file = KeyFile::read(path)?;
    match (&file, wrap) {
        (KeyFile::Wrapped(_), true) => Ok(file),
        (KeyFile::Open(_), true) => Err(Failure::new(
            format!("the keys in {} are not wrapped", path.display()),
            "wrap them first with 'relevo-recover keys rewrap --passphrase'",
        )),
        (_, false) => {
            let unlocked = Unlocker::from(unlock).open(file, path)?;
            Ok(KeyFile::Open(unlocked.keys))
        }
    }
}
