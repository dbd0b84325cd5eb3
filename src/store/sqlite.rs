//! SQLite, the default that needs no server: a file, its connections, and the lock that keeps a second server away.

use std::{
    fs::{File, OpenOptions, TryLockError},
    path::{Path, PathBuf},
};

use actors::ports::StoreError;
use diesel::{Connection, SqliteConnection, connection::SimpleConnection};

use super::link::Sqlite;

/// How each connection is set up. The write-ahead log lets readers go on beside the one writer. `FULL` syncs each
/// commit: a flush every 200 ms makes that cheap, and an acknowledged revocation must outlive a power failure.
const SETUP: &str = "\
    PRAGMA busy_timeout = 5000;
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = FULL;
    PRAGMA foreign_keys = ON;
    PRAGMA temp_store = MEMORY;";

/// The file.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) path: PathBuf,
}

impl Target {
    /// Makes the folder that the file is in.
    ///
    /// # Errors
    /// A sentence.
    pub(super) fn make_folder(&self) -> Result<(), String> {
        match self.path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            None => Ok(()),
            Some(folder) => std::fs::create_dir_all(folder)
                .map_err(|error| format!("can't make the folder {}: {error}", folder.display())),
        }
    }

    /// Opens the file from an async task.
    ///
    /// # Errors
    /// A sentence.
    pub(super) async fn open(&self) -> Result<Sqlite, String> {
        let path = self.path.clone();
        let opened = tokio::task::spawn_blocking(move || open(&path)).await;
        Ok(Sqlite::new(opened.map_err(|_panic| "opening the database panicked".to_owned())??))
    }
}

/// Opens the file. Blocks.
///
/// # Errors
/// A sentence.
pub(super) fn open(path: &Path) -> Result<SqliteConnection, String> {
    let wrong = |error: &dyn std::fmt::Display| format!("can't open {}: {error}", path.display());
    let text = path.to_str().ok_or_else(|| wrong(&"its name is not UTF-8"))?;
    // Of two that make a new file's journal a write-ahead log at once, SQLite refuses one without waiting: the busy timeout
    // doesn't hold for that. The folder is locked meanwhile, against other processes too; not the file, since closing it
    // would drop SQLite's own locks (POSIX locks belong to the process).
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let in_turn =
        File::open(folder).and_then(|folder| folder.lock().map(|()| folder)).map_err(|error| wrong(&error))?;
    let mut connection = SqliteConnection::establish(text).map_err(|error| wrong(&error))?;
    connection.batch_execute(SETUP).map_err(|error| wrong(&error))?;
    drop(in_turn);
    Ok(connection)
}

/// Holds a lock for as long as it lives, also against other processes, and no longer than the process.
#[derive(Debug)]
pub struct InstanceLock {
    /// Closing the file releases it. `None` where several instances may serve.
    _file: Option<File>,
}

impl InstanceLock {
    /// The lock of a store that several instances may share.
    pub(super) const SHARED: Self = Self { _file: None };

    /// Takes the lock beside the database's file.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: somebody else holds it, or the file can't be made.
    pub(super) fn take(database: &Path) -> Result<Self, StoreError> {
        let mut path = database.as_os_str().to_owned();
        path.push(".lock");
        let path = PathBuf::from(path);
        let wrong = |why: &dyn std::fmt::Display| StoreError::Unavailable(format!("{}: {why}", path.display()));
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(|e| wrong(&e))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: Some(file) }),
            Err(TryLockError::WouldBlock) => {
                Err(wrong(&"another server uses this SQLite file; several instances need PostgreSQL"))
            }
            Err(TryLockError::Error(error)) => Err(wrong(&error)),
        }
    }
}
