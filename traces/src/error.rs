//! What can be wrong with a trace, said so that it can be mended: which file, which line, which column.

use std::path::{Path, PathBuf};

use thiserror::Error;

/// Why a trace could not be opened, made or written.
#[derive(Debug, Error)]
pub enum TraceError {
    /// The operating system would not let us read.
    #[error("{}: cannot be read: {cause}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
    /// The operating system would not let us write.
    #[error("{}: cannot be written: {cause}", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
    /// One cell of a table is wrong.
    #[error("{}, line {line}, column {column}: {problem}; {mend}", path.display())]
    Cell {
        /// The file.
        path: PathBuf,
        /// Line, from 1, the header being line 1.
        line: u64,
        /// Name of the column in the header.
        column: String,
        /// What is wrong.
        problem: String,
        /// What to do about it.
        mend: String,
    },
    /// A whole line is wrong.
    #[error("{}, line {line}: {problem}; {mend}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: u64,
        /// What is wrong.
        problem: String,
        /// What to do about it.
        mend: String,
    },
    /// A whole file or folder is wrong.
    #[error("{}: {problem}; {mend}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong.
        problem: String,
        /// What to do about it.
        mend: String,
    },
    /// `KIND:PATH` could not be understood.
    #[error("trace `{spec}`: {problem}; {mend}")]
    Spec {
        /// The text as given.
        spec: String,
        /// What is wrong.
        problem: String,
        /// What to do about it.
        mend: String,
    },
    /// An option of the trace makes no sense, alone or with this trace.
    #[error("trace option `{option}`: {problem}; {mend}")]
    Option {
        /// Name of the option.
        option: &'static str,
        /// What is wrong.
        problem: String,
        /// What to do about it.
        mend: String,
    },
}

impl TraceError {
    pub(crate) fn cell(
        path: &Path,
        line: u64,
        column: impl Into<String>,
        problem: impl Into<String>,
        mend: impl Into<String>,
    ) -> Self {
        Self::Cell { path: path.to_path_buf(), line, column: column.into(), problem: problem.into(), mend: mend.into() }
    }

    pub(crate) fn line(path: &Path, line: u64, problem: impl Into<String>, mend: impl Into<String>) -> Self {
        Self::Line { path: path.to_path_buf(), line, problem: problem.into(), mend: mend.into() }
    }

    pub(crate) fn file(path: &Path, problem: impl Into<String>, mend: impl Into<String>) -> Self {
        Self::File { path: path.to_path_buf(), problem: problem.into(), mend: mend.into() }
    }

    pub(crate) fn option(option: &'static str, problem: impl Into<String>, mend: impl Into<String>) -> Self {
        Self::Option { option, problem: problem.into(), mend: mend.into() }
    }

    pub(crate) fn read(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        move |cause| Self::Read { path: path.to_path_buf(), cause }
    }

    pub(crate) fn write(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        move |cause| Self::Write { path: path.to_path_buf(), cause }
    }
}

/// A piece of input quoted in a message: printable, and short whatever the input holds.
pub(crate) fn quote(bytes: &[u8]) -> String {
    const LONGEST: usize = 40;
    let text: String = String::from_utf8_lossy(&bytes[..bytes.len().min(4 * LONGEST)])
        .chars()
        .take(LONGEST)
        .flat_map(char::escape_debug)
        .collect();
    let more = if bytes.len() > text.len().max(LONGEST) { "..." } else { "" };
    format!("`{text}{more}`")
}
