//! The cache's file: its tables, and whether one that is there can be used.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;

use super::Scope;

const VERSION: i64 = 2;
const SCHEMA: &str = "
    CREATE TABLE scope (text TEXT NOT NULL);
    CREATE TABLE chunks (tag BLOB PRIMARY KEY, id BLOB NOT NULL, proof BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE spans (disk TEXT, span INTEGER, shape INTEGER, hash BLOB, id BLOB, key BLOB, proof BLOB,
                        PRIMARY KEY (disk, span)) WITHOUT ROWID;
    CREATE TABLE images (disk TEXT PRIMARY KEY, point BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE staged (disk TEXT, span INTEGER, shape INTEGER, hash BLOB, id BLOB, key BLOB, proof BLOB,
                         PRIMARY KEY (disk, span)) WITHOUT ROWID;
";

/// A connection with the settings that all have.
pub fn connect(path: &Path) -> Result<Connection, rusqlite::Error> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(Duration::from_secs(30))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // In WAL mode a power cut then costs the last transactions, not the file.
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    Ok(connection)
}

/// The cache that is there, when it is of this scope and version.
pub fn open_existing(path: &Path, scope: &Scope) -> Result<Option<Connection>, rusqlite::Error> {
    if !path.exists() {
        return Ok(None);
    }
    let connection = connect(path)?;
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if version != VERSION {
        return Ok(None);
    }
    let text: String = connection.query_row("SELECT text FROM scope", [], |row| row.get(0))?;
    if text != scope.text() {
        tracing::info!("the cache is of another vault or epoch: starting an empty one");
        return Ok(None);
    }
    Ok(Some(connection))
}

/// Takes away the file and what SQLite keeps beside it.
pub fn remove(path: &Path) {
    for suffix in ["", "-wal", "-shm"] {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        // What cannot be removed is met again by whoever opens it.
        let _ = std::fs::remove_file(name);
    }
}

/// A new and empty cache in place of what is there.
pub fn create(path: &Path, scope: &Scope) -> Result<Connection, rusqlite::Error> {
    remove(path);
    // For its owner only; SQLite gives its other files the same mode. A failure here is met
    // again by SQLite, which says more.
    let _ = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path);
    let mut connection = connect(path)?;
    let transaction = connection.transaction()?;
    transaction.execute_batch(SCHEMA)?;
    transaction.execute("INSERT INTO scope VALUES (?)", [scope.text()])?;
    transaction.pragma_update(None, "user_version", VERSION)?;
    transaction.commit()?;
    Ok(connection)
}
