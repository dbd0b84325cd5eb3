//! SQLite, the default that needs no server: a file, its connections, and the lock that keeps a second server away.

use std::{
    fmt::Display,
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
    time::Duration,
};

use actors::{ports::StoreError, private};
use diesel::{Connection, SqliteConnection, connection::SimpleConnection};
use tokio::{task::spawn_blocking, time::timeout};
use uuid::Uuid;

/// How each connection is set up. `FULL` syncs each commit: a flush every 200 ms makes that cheap, and an acknowledged
/// revocation must outlive a power failure.
const SETUP: &str = "\
    PRAGMA busy_timeout = 5000;
    PRAGMA synchronous = FULL;
    PRAGMA foreign_keys = ON;
    PRAGMA temp_store = MEMORY;";

/// How a file is set up, once and for all. The write-ahead log lets readers go on beside the one writer.
const FILE_SETUP: &str = "PRAGMA journal_mode = WAL;";

/// The longest wait for others that open the same file: longer than the busy timeout, which one of them may need.
const LOCK_WAIT: Duration = Duration::from_secs(8);

/// The file.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) path: PathBuf,
    /// Whether the file is made where it isn't there, with its folder, and set up; otherwise it stays as it is.
    pub(super) makes: bool,
}

impl Target {
    /// Opens the file.
    ///
    /// # Errors
    /// A sentence.
    pub(super) async fn open(&self) -> Result<SqliteConnection, String> {
        // Of two that make a new file's journal a write-ahead log at once, SQLite refuses one without waiting: the busy
        // timeout doesn't hold for that. The folder is locked meanwhile, against other processes too; not the file, since
        // closing it would drop SQLite's own locks (POSIX locks belong to the process).
        let folder = self.folder().to_owned();
        if self.makes {
            private::make_folder(&folder)
                .map_err(|error| format!("can't make the folder {}: {error}", folder.display()))?;
        }
        let lock = spawn_blocking(move || File::open(folder).and_then(|folder| folder.lock().map(|()| folder)));
        let in_turn = match timeout(LOCK_WAIT, lock).await {
            Ok(Ok(locked)) => locked.map_err(|error| self.wrong(&error))?,
            Ok(Err(panic)) => return Err(self.wrong(&panic)),
            Err(_elapsed) => return Err(self.wrong(&"another process holds the lock of its folder")),
        };
        let (path, makes) = (self.path.clone(), self.makes);
        let opened = spawn_blocking(move || {
            let opened = open(&path, makes);
            drop(in_turn);
            opened
        });
        opened.await.map_err(|panic| self.wrong(&panic))?.map_err(|why| self.wrong(&why))
    }

    /// Says whether the file is missing, as far as anybody can tell.
    pub(super) fn is_missing(&self) -> bool {
        !self.path.try_exists().unwrap_or(true)
    }

    /// Finds out whether the file could be made, and leaves nothing behind.
    ///
    /// # Errors
    /// A sentence.
    pub(super) fn could_be_made(&self) -> Result<(), String> {
        // What is above it is made with it.
        let there = self.folder().ancestors().find(|folder| folder.is_dir()).unwrap_or(Path::new("."));
        let probe = there.join(format!(".probe-{}", Uuid::new_v4()));
        let made = private::file().write(true).create_new(true).open(&probe).and_then(|_| fs::remove_file(&probe));
        made.map_err(|error| self.wrong(&error))
    }

    fn folder(&self) -> &Path {
        self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
    }

    fn wrong(&self, why: &dyn Display) -> String {
        format!("can't open {}: {why}", self.path.display())
    }
}

/// Opens the file. Blocks.
fn open(path: &Path, makes: bool) -> Result<SqliteConnection, String> {
    let text = path.to_str().ok_or("its name is not UTF-8")?;
    if makes {
        // SQLite gives its other files the mode of this one. Where it can't be made, SQLite says so too.
        let _made = private::file().write(true).create_new(true).open(path).is_ok();
    } else {
        // SQLite would make it.
        path.metadata().map_err(|error| error.to_string())?;
    }
    let mut connection = SqliteConnection::establish(text).map_err(|error| error.to_string())?;
    connection.batch_execute(SETUP).map_err(|error| error.to_string())?;
    if makes {
        connection.batch_execute(FILE_SETUP).map_err(|error| error.to_string())?;
    }
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
        let file = private::file().create(true).truncate(false).write(true).open(&path).map_err(|e| wrong(&e))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: Some(file) }),
            Err(TryLockError::WouldBlock) => {
                Err(wrong(&"another server uses this SQLite file; several instances need PostgreSQL"))
            }
            Err(TryLockError::Error(error)) => Err(wrong(&error)),
        }
    }
}
