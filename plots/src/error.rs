//! What can go wrong in drawing and in writing a report.

use std::path::PathBuf;

/// Why a figure or a report was not written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlotError {
    /// A file or folder could not be written.
    #[error("cannot write {}: {source}; check that the folder exists, is writable and has room", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A picture to be put into the report could not be read.
    #[error("cannot read the picture {}: {source}; draw the figures again before the report", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A picture could not be drawn; an error in this crate, not in the rows.
    #[error("cannot draw the figure '{figure}': {reason}; its description is at fault, please report it")]
    Draw {
        /// Name of the figure.
        figure: String,
        /// What the drawing library said.
        reason: String,
    },
}
