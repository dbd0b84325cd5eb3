//! The data folder.

use std::{fs, io, path::Path};

use super::BootError;

/// Sees to it that the data folder is there and can be written.
///
/// # Errors
/// [`BootError::Unavailable`], with what to do.
pub fn prepare_folder(folder: &Path) -> Result<(), BootError> {
    try_out(folder).map_err(|error| {
        let folder = folder.display();
        BootError::Unavailable(format!(
            "The data folder {folder} can't be written ({error}): set HNE_DATA_DIR, or give this user the right to."
        ))
    })
}

fn try_out(folder: &Path) -> io::Result<()> {
    // Another process may do the same.
    let probe = folder.join(format!(".probe-{}", uuid::Uuid::new_v4()));
    fs::create_dir_all(folder)?;
    fs::write(&probe, b"")?;
    fs::remove_file(&probe)
}
