//! Metrics as a file, for a collector that reads files (node_exporter's textfile collector).

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The text could not be put in place; the file still has its former content, if it had any.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {}: {source}", path.display())]
pub struct WriteFileError {
    /// What was tried: `write` or `replace`.
    pub operation: &'static str,
    /// The file it was tried on.
    pub path: PathBuf,
    /// The system's answer.
    pub source: io::Error,
}

/// Replaces the content of `path` with `text`: a reader finds the former text or the new one, never
/// a part.
///
/// The text goes to a hidden file in the same directory, which is then renamed (rename(2) is atomic
/// within a file system). Its name ends in `.tmp`, so a collector of `*.prom` passes over one that a
/// crash left behind; the next write by the same process id reuses it. Not promised: that the file
/// survives a power failure (a metrics file is stale by then), or that two writers of the same
/// process can share a path.
///
/// # Errors
///
/// [`WriteFileError`] names the path. Nothing is left behind; the caller logs it and tries again at
/// the next interval.
pub fn write_file(path: &Path, text: &str) -> Result<(), WriteFileError> {
    let failed = |operation, path: &Path| {
        let path = path.to_owned();
        move |source| WriteFileError { operation, path, source }
    };

    let temporary = temporary_beside(path).map_err(failed("write", path))?;
    fs::write(&temporary, text)
        .map_err(failed("write", &temporary))
        .and_then(|()| fs::rename(&temporary, path).map_err(failed("replace", path)))
        // Best effort: the first error is the one that explains.
        .inspect_err(|_| drop(fs::remove_file(&temporary)))
}

fn temporary_beside(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or(io::Error::from(io::ErrorKind::InvalidFilename))?;
    let mut temporary = OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}.tmp", std::process::id()));
    Ok(path.with_file_name(temporary))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names_in(directory: &Path) -> Vec<OsString> {
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name()).collect()
    }

    #[test]
    fn file_has_the_latest_text_and_no_neighbours() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("annulus.prom");
        write_file(&path, "a longer first text\n").unwrap();
        write_file(&path, "second\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "second\n");
        assert_eq!(names_in(directory.path()), ["annulus.prom"]);
    }

    #[test]
    fn open_reader_keeps_the_former_text() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("annulus.prom");
        write_file(&path, "first\n").unwrap();
        let reader = fs::File::open(&path).unwrap();
        write_file(&path, "second\n").unwrap();
        assert_eq!(io::read_to_string(reader).unwrap(), "first\n");
    }

    #[test]
    fn missing_directory_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let error = write_file(&directory.path().join("none/annulus.prom"), "").unwrap_err();
        assert_eq!(error.source.kind(), io::ErrorKind::NotFound);
        assert!(error.to_string().contains("cannot write"), "{error}");
        assert!(error.to_string().contains("none/.annulus.prom."), "{error}");
    }

    #[test]
    fn target_that_cannot_be_replaced_is_named_and_nothing_is_left() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("annulus.prom");
        fs::create_dir(&path).unwrap();
        let error = write_file(&path, "text\n").unwrap_err();
        assert_eq!((error.operation, &error.path), ("replace", &path));
        assert_eq!(names_in(directory.path()), ["annulus.prom"]);
    }

    #[test]
    fn path_without_a_file_name_is_refused() {
        let error = write_file(Path::new("/"), "").unwrap_err();
        assert_eq!(error.source.kind(), io::ErrorKind::InvalidFilename);
        assert_eq!(error.to_string(), format!("cannot write /: {}", error.source));
    }
}
