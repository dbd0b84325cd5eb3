//! The data folder, and the identity that it gives to whoever serves from it.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Read, Seek, Write},
    path::Path,
};

use actors::private;
use uuid::Uuid;

use super::BootError;

/// The file that holds the instance's id, and that is locked while somebody serves.
const IDENTITY: &str = "instance";

/// The most bytes that are written to find out whether there is room.
const MAX_PROBE: u64 = 256 << 20;

/// A data folder that this process serves from, and nobody else for as long as this lives.
#[derive(Debug)]
pub struct DataFolder {
    /// The instance's id, made when the folder was first served from.
    pub instance: Uuid,
    /// Closing the file, or the end of the process, releases the lock.
    _lock: File,
}

impl DataFolder {
    /// Takes the folder, and makes it if it isn't there: for this user alone.
    ///
    /// # Errors
    /// [`BootError::Unavailable`], with what to do: somebody serves from it, or it can't be written.
    pub fn claim(folder: &Path) -> Result<Self, BootError> {
        let unwritable = |error| unwritable(folder, &error);
        private::make_folder(folder).map_err(unwritable)?;
        let options = private::file().read(true).write(true).create(true).truncate(false).open(folder.join(IDENTITY));
        let mut file = options.map_err(unwritable)?;
        file.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => BootError::Unavailable(format!(
                "Another process serves from the data folder {}: give each its own by HNE_DATA_DIR.",
                folder.display()
            )),
            TryLockError::Error(error) => unwritable(error),
        })?;
        let instance = identity(&mut file).map_err(unwritable)?;
        Ok(Self { instance, _lock: file })
    }

    /// Returns the instance's id without taking the folder; `None` where nobody has served from it.
    #[must_use]
    pub fn peek(folder: &Path) -> Option<Uuid> {
        fs::read_to_string(folder.join(IDENTITY)).ok()?.trim().parse().ok()
    }
}

/// Reads the id, or makes one where there is none.
fn identity(file: &mut File) -> io::Result<Uuid> {
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    if let Ok(instance) = text.trim().parse() {
        return Ok(instance);
    }
    if !text.trim().is_empty() {
        let why = format!("its file {IDENTITY} holds no id; move it away to begin as a new instance");
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    let instance = Uuid::new_v4();
    file.rewind()?;
    writeln!(file, "{instance}")?;
    file.sync_all()?;
    Ok(instance)
}

/// Sees to it that the data folder is there and can be written, without taking it.
///
/// # Errors
/// [`BootError::Unavailable`], with what to do.
pub fn prepare_folder(folder: &Path) -> Result<(), BootError> {
    try_out(folder, 0).map_err(|error| unwritable(folder, &error))
}

/// Finds out whether there is room in a folder for what serving claims there first, a segment of a journal for each
/// worker: what was free is taken for a moment, and given back. Whoever serves from it meanwhile has claimed what it
/// writes to, and where it lacks a spare segment by this, it tries again at once.
///
/// # Errors
/// [`BootError::Unavailable`], with what to do.
pub fn find_room(folder: &Path, segment_bytes: u64, workers: usize) -> Result<(), BootError> {
    let bytes = segment_bytes.saturating_mul(workers as u64).min(MAX_PROBE);
    try_out(folder, bytes).map_err(|error| match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            BootError::Unavailable(format!(
                "The data folder {} has no room for the journals ({error}): they begin with {bytes} bytes, a file of \
                 journal.segment_bytes for each worker; make room there, or set HNE_DATA_DIR.",
                folder.display()
            ))
        }
        _ => unwritable(folder, &error),
    })
}

fn unwritable(folder: &Path, error: &io::Error) -> BootError {
    let folder = folder.display();
    BootError::Unavailable(format!(
        "The data folder {folder} can't be written ({error}): set HNE_DATA_DIR, or give this user the right to."
    ))
}

/// Writes so many bytes to a file of its own, which is removed however that goes.
fn try_out(folder: &Path, bytes: u64) -> io::Result<()> {
    // Another process may do the same.
    let path = folder.join(format!(".probe-{}", Uuid::new_v4()));
    private::make_folder(folder)?;
    let mut probe = private::file().write(true).create_new(true).open(&path)?;
    // Zeros, as the files of a journal are claimed. A file system may say only when it syncs that it is full.
    let written = io::copy(&mut io::repeat(0).take(bytes), &mut probe).and_then(|_| probe.sync_data());
    fs::remove_file(&path)?;
    written
}
