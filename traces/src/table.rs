//! A comma-separated file with a header, read row by row, columns by name, errors with file, line and column.

use std::fs::File;
use std::path::{Path, PathBuf};

use csv::ByteRecord;

use crate::TraceError;
use crate::error::quote;

/// An open file and its current row.
pub(crate) struct Table {
    path: PathBuf,
    reader: csv::Reader<File>,
    header: Vec<String>,
    /// Position in the file of each wanted column, in the order wanted.
    places: Vec<Option<usize>>,
    record: ByteRecord,
    line: u64,
    rows: u64,
}

impl Table {
    /// Opens `path`, whose header must have the columns `required` and may have `optional`, in any order.
    /// Columns are numbered as listed: the required ones first. Others are refused.
    pub fn open(path: &Path, required: &[&str], optional: &[&str]) -> Result<Self, TraceError> {
        let file = File::open(path).map_err(TraceError::read(path))?;
        let mut reader =
            csv::ReaderBuilder::new().has_headers(false).flexible(true).buffer_capacity(1 << 16).from_reader(file);
        let mut record = ByteRecord::new();
        let expected = || {
            let all = [required, optional].concat();
            format!("the first line should name the columns {}", all.join(","))
        };
        if !read(&mut reader, &mut record, path)? {
            return Err(TraceError::file(path, "the file is empty", expected()));
        }
        let header = names(&record, path)?;
        let known: Vec<&str> = [required, optional].concat();
        for name in &header {
            if !known.contains(&name.as_str()) {
                return Err(TraceError::line(
                    path,
                    1,
                    format!("unknown column {}", quote(name.as_bytes())),
                    expected(),
                ));
            }
            if header.iter().filter(|other| *other == name).count() > 1 {
                return Err(TraceError::line(path, 1, format!("column `{name}` appears twice"), "keep one of them"));
            }
        }
        let places: Vec<Option<usize>> = known.iter().map(|name| header.iter().position(|have| have == name)).collect();
        if let Some(missing) = (0..required.len()).find(|&i| places[i].is_none()) {
            return Err(TraceError::line(path, 1, format!("column `{}` is missing", required[missing]), expected()));
        }
        Ok(Self { path: path.to_path_buf(), reader, header, places, record, line: 1, rows: 0 })
    }

    /// Goes to the next row; false at the end.
    pub fn next_row(&mut self) -> Result<bool, TraceError> {
        if !read(&mut self.reader, &mut self.record, &self.path)? {
            return Ok(false);
        }
        self.line = self.record.position().map_or(0, csv::Position::line);
        self.rows += 1;
        let (have, want) = (self.record.len(), self.header.len());
        if have != want {
            return Err(wrong_width(&self.path, self.line, have, want));
        }
        Ok(true)
    }

    /// Line of the current row.
    pub fn line(&self) -> u64 {
        self.line
    }

    /// Rows so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Whether the file has the column.
    pub fn has(&self, column: usize) -> bool {
        self.places[column].is_some()
    }

    fn bytes(&self, column: usize) -> &[u8] {
        self.places[column].and_then(|place| self.record.get(place)).unwrap_or_default()
    }

    /// Whether the cell has nothing in it (or there is no such column).
    pub fn is_empty(&self, column: usize) -> bool {
        self.bytes(column).trim_ascii().is_empty()
    }

    /// The cell as text.
    pub fn text(&self, column: usize) -> Result<&str, TraceError> {
        let bytes = self.bytes(column);
        std::str::from_utf8(bytes).map_err(|_| {
            let problem = format!("{} is not UTF-8 text", quote(bytes));
            self.error(column, problem, "save the file as UTF-8")
        })
    }

    /// The cell as a finite number.
    pub fn number(&self, column: usize) -> Result<f64, TraceError> {
        let bytes = self.bytes(column).trim_ascii();
        std::str::from_utf8(bytes)
            .ok()
            .and_then(|text| text.parse::<f64>().ok())
            .filter(|value| value.is_finite())
            .ok_or_else(|| {
                let problem = if bytes.is_empty() {
                    "the cell is empty".to_owned()
                } else {
                    format!("{} is not a number", quote(bytes))
                };
                self.error(column, problem, "write a number, as 12 or 0.5")
            })
    }

    /// The cell as a number of things: whole, from zero.
    pub fn whole(&self, column: usize) -> Result<u64, TraceError> {
        let value = self.number(column)?;
        if value < 0.0 || value.fract() != 0.0 || value > 9e15 {
            let problem = format!("{value} is not a whole number from zero");
            return Err(self.error(column, problem, "write a count, as 12"));
        }
        Ok(value as u64)
    }

    /// An error at the current row and this column.
    pub fn error(&self, column: usize, problem: impl Into<String>, mend: impl Into<String>) -> TraceError {
        let name = self.places[column].map_or("", |place| &self.header[place]);
        TraceError::cell(&self.path, self.line, name, problem, mend)
    }
}

/// A line with too few or too many cells.
pub(crate) fn wrong_width(path: &Path, line: u64, have: usize, want: usize) -> TraceError {
    let problem = format!("{have} columns where the header has {want}");
    let mend = if have < want {
        "the line seems cut off: fetch the file again, or remove the line"
    } else {
        "remove the extra cells, or quote a cell that holds a comma"
    };
    TraceError::line(path, line, problem, mend)
}

fn read(reader: &mut csv::Reader<File>, record: &mut ByteRecord, path: &Path) -> Result<bool, TraceError> {
    reader.read_byte_record(record).map_err(|error| match error.into_kind() {
        csv::ErrorKind::Io(source) => TraceError::read(path)(source),
        other => TraceError::file(path, format!("{other:?}"), "write it as comma-separated values"),
    })
}

/// The names of a header, without the mark that some editors put at the start of a file.
fn names(record: &ByteRecord, path: &Path) -> Result<Vec<String>, TraceError> {
    let mut names = Vec::with_capacity(record.len());
    for (i, bytes) in record.iter().enumerate() {
        let bytes = match i {
            0 => bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes),
            _ => bytes,
        };
        let name = std::str::from_utf8(bytes).map_err(|_| {
            TraceError::line(path, 1, format!("{} is not UTF-8 text", quote(bytes)), "save the file as UTF-8")
        })?;
        names.push(name.trim().to_owned());
    }
    Ok(names)
}
