//! The large file: a row a function, a column a minute. Parsed from its bytes, in parts on several threads;
//! the parts are joined in their order, so their number does not show.

use std::fs::File;
use std::path::Path;
use std::thread::ScopedJoinHandle;

use crate::TraceError;
use crate::error::quote;
use crate::options::MINUTES_PER_DAY;
use crate::table::wrong_width;

/// Names of the columns before the minutes, in the order of [`Role`]'s texts.
const TEXTS: [&str; 4] = ["HashOwner", "HashApp", "HashFunction", "Trigger"];
/// Counts of four minutes without an invocation.
const ZEROS: &[u8] = b"0,0,0,0,";
/// A part for a thread is at least this long, in bytes.
const SMALLEST_PART: usize = 4 << 20;

/// One day's invocations.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Invocations {
    pub rows: Vec<InvocationRow>,
    /// Non-zero counts, row after row: minute of the day from 1, and count. Only minutes that were wanted.
    pub cells: Vec<(u16, u32)>,
    /// First and last minute that the header has.
    pub columns: (u16, u16),
}

/// One row.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct InvocationRow {
    pub owner: String,
    pub app: String,
    pub name: String,
    pub trigger: String,
    /// Line in the file, from 1.
    pub line: u64,
    /// Sum of all minutes of the day, wanted or not.
    pub total: u64,
    /// Where its cells end; they begin where the previous row's end.
    pub end: usize,
}

impl Invocations {
    /// The cells of a row.
    pub fn cells_of(&self, row: usize) -> &[(u16, u32)] {
        let start = row.checked_sub(1).map_or(0, |before| self.rows[before].end);
        &self.cells[start..self.rows[row].end]
    }
}

/// What a column holds.
#[derive(Clone, Copy)]
enum Role {
    /// One of [`TEXTS`].
    Text(u8),
    /// A minute, from 1.
    Minute(u16),
}

impl Role {
    fn minute(self) -> Option<u16> {
        match self {
            Self::Minute(minute) => Some(minute),
            Self::Text(_) => None,
        }
    }
}

struct Layout {
    roles: Vec<Role>,
    names: Vec<String>,
    /// Minutes to keep, both included.
    wanted: (u16, u16),
    /// Whether the minutes stand in rising order.
    in_order: bool,
    /// From this column on there are minutes only.
    minutes_from: usize,
}

/// What is wrong, by line of the part.
struct Bad {
    line: u64,
    /// Column by number, or the number of columns found where the line has too few or too many.
    column: Result<usize, usize>,
    problem: String,
    mend: &'static str,
}

/// Reads the file; `wanted` are the first and last minute of the day to keep.
pub(crate) fn read(path: &Path, wanted: (u16, u16)) -> Result<Invocations, TraceError> {
    let bytes = read_bytes(path).map_err(TraceError::read(path))?;
    parse(&bytes, path, wanted, parts_of(bytes.len()))
}

/// In how many parts so many bytes are worth reading.
fn parts_of(bytes: usize) -> usize {
    threads().min(bytes / SMALLEST_PART).clamp(1, 16)
}

/// How many threads there is room for.
pub(crate) fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The whole file, each part read by a thread: a third of reading is the kernel's work of finding memory for it.
fn read_bytes(path: &Path) -> std::io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let length = usize::try_from(file.metadata()?.len()).unwrap_or(0);
    let part = length.div_ceil(parts_of(length));
    if part == length {
        // Also what has no length, as a pipe.
        return std::fs::read(path);
    }
    let mut bytes = vec![0; length];
    std::thread::scope(|scope| {
        let (file, parts) = (&file, bytes.chunks_mut(part).zip((0u64..).step_by(part)));
        let handles: Vec<_> = parts.map(|(part, at)| scope.spawn(move || read_at(file, part, at))).collect();
        handles.into_iter().try_for_each(joined)
    })?;
    Ok(bytes)
}

fn read_at(file: &File, part: &mut [u8], at: u64) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, part, at)
}

/// What a thread found out.
pub(crate) fn joined<T>(handle: ScopedJoinHandle<'_, T>) -> T {
    match handle.join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Parses the whole file in `parts` parts; the result does not depend on their number.
pub(crate) fn parse(bytes: &[u8], path: &Path, wanted: (u16, u16), parts: usize) -> Result<Invocations, TraceError> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let header_end = memchr::memchr(b'\n', bytes).unwrap_or(bytes.len());
    let layout = layout(&bytes[..header_end], path, wanted)?;
    let body = bytes.get(header_end + 1..).unwrap_or_default();

    let mut rest = body;
    let mut pieces = Vec::with_capacity(parts);
    for left in (1..=parts).rev() {
        let aim = rest.len() / left;
        let end = match memchr::memchr(b'\n', &rest[aim..]) {
            Some(newline) if left > 1 => aim + newline + 1,
            _ => rest.len(),
        };
        let (piece, after) = rest.split_at(end);
        pieces.push(piece);
        rest = after;
    }
    let layout = &layout;
    let parsed: Vec<_> = std::thread::scope(|scope| {
        let handles: Vec<_> = pieces[1..].iter().map(|piece| scope.spawn(move || parse_part(piece, layout))).collect();
        let first = parse_part(pieces[0], layout);
        let others = handles.into_iter().map(joined);
        std::iter::once(first).chain(others).collect()
    });

    let minutes = layout.roles.iter().filter_map(|role| role.minute());
    let mut all = Invocations {
        columns: (minutes.clone().min().unwrap_or(1), minutes.max().unwrap_or(1)),
        ..Invocations::default()
    };
    let mut line = 1;
    for part in parsed {
        let (part, lines) = part.map_err(|bad| bad.at(path, line, layout))?;
        let shift = all.cells.len();
        if all.cells.is_empty() {
            all.cells = part.cells;
        } else {
            all.cells.extend(part.cells);
        }
        all.rows.extend(part.rows.into_iter().map(|row| InvocationRow {
            line: row.line + line,
            end: row.end + shift,
            ..row
        }));
        line += lines;
    }
    if all.rows.is_empty() {
        return Err(TraceError::file(path, "there is a header and no row", "add rows, or name another file"));
    }
    Ok(all)
}

fn layout(header: &[u8], path: &Path, wanted: (u16, u16)) -> Result<Layout, TraceError> {
    let expected = "the first line should be HashOwner,HashApp,HashFunction,Trigger,1,2,...,1440";
    if header.trim_ascii().is_empty() {
        return Err(TraceError::file(path, "the file is empty", expected));
    }
    let header = std::str::from_utf8(header)
        .map_err(|_| TraceError::line(path, 1, "the header is not UTF-8 text", "save the file as UTF-8"))?;
    let mut roles = Vec::new();
    let mut names: Vec<String> = Vec::new();
    let mut seen_text = [false; 4];
    let mut seen_minute = [false; MINUTES_PER_DAY as usize + 1];
    for name in header.trim_end_matches('\r').split(',') {
        let name = name.trim().trim_matches('"');
        let wrong = |problem: String| TraceError::cell(path, 1, name, problem, expected);
        let (role, seen) = if let Some(text) = TEXTS.iter().position(|text| *text == name) {
            (Role::Text(text as u8), &mut seen_text[text])
        } else {
            let minute = name.parse::<i64>().map_err(|_| wrong("unknown column".to_owned()))?;
            let minute = u16::try_from(minute)
                .ok()
                .filter(|minute| (1..=MINUTES_PER_DAY as u16).contains(minute))
                .ok_or_else(|| wrong(format!("minute {minute} is not one of a day's 1 to 1440")))?;
            (Role::Minute(minute), &mut seen_minute[usize::from(minute)])
        };
        if std::mem::replace(seen, true) {
            return Err(wrong("the column appears twice".to_owned()));
        }
        roles.push(role);
        names.push(name.to_owned());
    }
    if let Some(missing) = (0..TEXTS.len()).find(|&i| !seen_text[i]) {
        let problem = format!("column `{}` is missing", TEXTS[missing]);
        return Err(TraceError::line(path, 1, problem, expected));
    }
    if !seen_minute.contains(&true) {
        return Err(TraceError::line(path, 1, "there is no minute column", expected));
    }
    let in_order = roles.iter().filter_map(|role| role.minute()).is_sorted();
    let minutes_from = roles.iter().rposition(|role| role.minute().is_none()).map_or(0, |text| text + 1);
    Ok(Layout { roles, names, wanted, in_order, minutes_from })
}

fn line_end(bytes: &[u8], start: usize) -> usize {
    memchr::memchr(b'\n', &bytes[start..]).map_or(bytes.len(), |length| start + length)
}

impl Bad {
    /// The line that begins at `start` has too few or too many columns.
    fn width(bytes: &[u8], start: usize, line: u64) -> Self {
        let text = &bytes[start..line_end(bytes, start)];
        Self { line, column: Err(text.split(|&byte| byte == b',').count()), problem: String::new(), mend: "" }
    }

    fn at(self, path: &Path, lines_before: u64, layout: &Layout) -> TraceError {
        let line = lines_before + self.line;
        match self.column {
            Ok(column) => TraceError::cell(path, line, &*layout.names[column], self.problem, self.mend),
            Err(have) => wrong_width(path, line, have, layout.roles.len()),
        }
    }
}

/// Parses whole lines; also says how many lines there were.
fn parse_part(bytes: &[u8], layout: &Layout) -> Result<(Invocations, u64), Bad> {
    let mut out = Invocations::default();
    let (mut at, mut line) = (0, 0);
    let columns = layout.roles.len();
    while at < bytes.len() {
        line += 1;
        if bytes[at] == b'\n' || bytes[at..].starts_with(b"\r\n") {
            at += if bytes[at] == b'\n' { 1 } else { 2 };
            continue;
        }
        let start = at;
        let mut row = InvocationRow { line, ..InvocationRow::default() };
        let mut column = 0;
        while column < columns {
            // Most counts are zero, and most of those lie in a row.
            if column >= layout.minutes_from
                && column + ZEROS.len() / 2 < columns
                && bytes.get(at..at + ZEROS.len()) == Some(ZEROS)
            {
                at += ZEROS.len();
                column += ZEROS.len() / 2;
                continue;
            }
            let last = column + 1 == columns;
            match layout.roles[column] {
                Role::Minute(minute) => {
                    let from = at;
                    let mut value = 0u64;
                    while let Some(digit) = bytes.get(at).map(|byte| byte.wrapping_sub(b'0'))
                        && digit <= 9
                    {
                        value = value.wrapping_mul(10).wrapping_add(u64::from(digit));
                        at += 1;
                    }
                    let ends = match bytes.get(at) {
                        Some(b',') => !last,
                        Some(b'\n' | b'\r') | None => last,
                        Some(_) => false,
                    };
                    if !ends || at == from || at - from > 9 {
                        return Err(diagnose(bytes, start, from, line, column, columns));
                    }
                    row.total += value;
                    if value != 0 && (layout.wanted.0..=layout.wanted.1).contains(&minute) {
                        out.cells.push((minute, value as u32));
                    }
                }
                Role::Text(text) => {
                    let length = memchr::memchr3(b',', b'\n', b'\r', &bytes[at..]);
                    let end = length.map_or(bytes.len(), |length| at + length);
                    if (bytes.get(end) == Some(&b',')) == last {
                        return Err(Bad::width(bytes, start, line));
                    }
                    let Ok(value) = std::str::from_utf8(&bytes[at..end]) else {
                        return Err(Bad {
                            line,
                            column: Ok(column),
                            problem: format!("{} is not UTF-8 text", quote(&bytes[at..end])),
                            mend: "save the file as UTF-8",
                        });
                    };
                    let value = value.trim_matches('"').to_owned();
                    match text {
                        0 => row.owner = value,
                        1 => row.app = value,
                        2 => row.name = value,
                        _ => row.trigger = value,
                    }
                    at = end;
                }
            }
            // Past the comma, or the end of the line.
            if bytes.get(at) == Some(&b'\r') {
                at += 1;
            }
            at += 1;
            column += 1;
        }
        if !layout.in_order {
            let from = out.rows.last().map_or(0, |before| before.end);
            out.cells[from..].sort_unstable_by_key(|cell| cell.0);
        }
        row.end = out.cells.len();
        out.rows.push(row);
    }
    Ok((out, line))
}

/// Says what is wrong with a line, the count at `from` being the first that did not fit.
fn diagnose(bytes: &[u8], start: usize, from: usize, line: u64, column: usize, columns: usize) -> Bad {
    let end = line_end(bytes, start);
    let cell = bytes[from.min(end)..end].split(|&byte| byte == b',').next().unwrap_or_default().trim_ascii();
    let whole = !cell.is_empty() && cell.iter().all(u8::is_ascii_digit);
    let width = Bad::width(bytes, start, line);
    if width.column != Err(columns) && (cell.is_empty() || whole && cell.len() <= 9) {
        return width;
    }
    let (problem, mend) = if cell.is_empty() {
        ("the cell is empty".to_owned(), "write 0 where nothing was invoked")
    } else if cell.starts_with(b"-") && cell[1..].iter().all(u8::is_ascii_digit) {
        (format!("negative count {}", quote(cell)), "write how many invocations there were, or 0")
    } else if whole {
        (format!("{} is too many for a minute", quote(cell)), "at most 999,999,999 a cell")
    } else {
        (format!("{} is not a whole number", quote(cell)), "write how many invocations there were")
    };
    Bad { line, column: Ok(column), problem, mend }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse_text(text: &str, parts: usize) -> Result<Invocations, TraceError> {
        parse(text.as_bytes(), Path::new("day.csv"), (1, 1440), parts)
    }

    #[test]
    fn rows_columns_and_window() {
        let text = "HashOwner,HashApp,HashFunction,Trigger,1,2,3\r\no,a,f,http,0,5,7\r\n\r\no,a,g,timer,1,0,0";
        let whole = parse_text(text, 1).unwrap();
        assert_eq!(whole.columns, (1, 3));
        assert_eq!(whole.cells_of(0), [(2, 5), (3, 7)]);
        assert_eq!(whole.cells_of(1), [(1, 1)]);
        assert_eq!((whole.rows[1].line, whole.rows[1].trigger.as_str()), (4, "timer"));
        let part = parse(text.as_bytes(), Path::new("d"), (3, 3), 1).unwrap();
        assert_eq!((part.cells_of(0), part.rows[0].total), (&[(3u16, 7u32)][..], 12));
        let turned = parse_text("3,HashApp,1,HashOwner,Trigger,HashFunction\n9,a,4,o,http,f\n", 1);
        assert_eq!(turned.unwrap().cells_of(0), [(1, 4), (3, 9)]);
    }

    #[test]
    fn wrong_cells_are_named() {
        let head = "HashOwner,HashApp,HashFunction,Trigger,1,2";
        for (body, message) in [
            ("o,a,f,http,1", "day.csv, line 2: 5 columns where the header has 6; the line seems cut off"),
            ("o,a,f,http,1,2,3", "line 2: 7 columns where the header has 6"),
            ("o,a,f,http,1,2\no,a", "line 3: 2 columns where the header has 6"),
            ("o,a,f,http,x,2", "line 2, column 1: `x` is not a whole number"),
            ("o,a,f,http,1,2.5", "line 2, column 2: `2.5` is not a whole number"),
            ("o,a,f,http,1,-2", "line 2, column 2: negative count `-2`"),
            ("o,a,f,http,,2", "line 2, column 1: the cell is empty"),
            ("o,a,f,http,1,9999999999", "line 2, column 2: `9999999999` is too many"),
        ] {
            let error = parse_text(&format!("{head}\n{body}\n"), 1).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
        for (text, message) in [
            ("", "day.csv: the file is empty"),
            ("HashOwner,HashApp,HashFunction,1\n", "line 1: column `Trigger` is missing"),
            ("HashOwner,HashApp,HashFunction,Trigger\n", "no minute column"),
            ("HashOwner,HashApp,HashFunction,Trigger,1441\n", "minute 1441 is not one of"),
            ("HashOwner,HashApp,HashFunction,Trigger,0\n", "minute 0 is not one of"),
            ("HashOwner,HashApp,HashFunction,Trigger,1,1\n", "column 1: the column appears twice"),
            ("HashOwner,HashApp,HashFunction,Trigger,total\n", "column total: unknown column"),
            (head, "there is a header and no row"),
        ] {
            let error = parse_text(text, 1).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
        let bytes = [head.as_bytes(), b"\no,\xff\xfe,f,http,1,2\n"].concat();
        let error = parse(&bytes, Path::new("day.csv"), (1, 1440), 1).unwrap_err().to_string();
        assert!(error.contains("line 2, column HashApp") && error.contains("UTF-8"), "{error}");
    }

    proptest! {
        #[test]
        fn the_number_of_parts_does_not_show(
            rows in proptest::collection::vec(proptest::collection::vec(0u32..1000, 3), 1..40),
            parts in 1usize..9, wrong in proptest::option::of(0usize..40),
        ) {
            let mut text = "HashOwner,HashApp,HashFunction,Trigger,1,2,3\n".to_owned();
            for (i, row) in rows.iter().enumerate() {
                let last = if wrong == Some(i) { "x".to_owned() } else { row[2].to_string() };
                text += &format!("owner{i},app,f{i},http,{},{},{last}\n", row[0], row[1]);
            }
            let (one, many) = (parse_text(&text, 1), parse_text(&text, parts));
            match (one, many) {
                (Ok(one), Ok(many)) => prop_assert_eq!(one, many),
                (Err(one), Err(many)) => prop_assert_eq!(one.to_string(), many.to_string()),
                _ => prop_assert!(false, "only one of them failed"),
            }
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), parts in 1usize..4) {
            let text = [b"HashOwner,HashApp,HashFunction,Trigger,1,2\n".as_slice(), &bytes].concat();
            let _ = parse(&text, Path::new("x"), (1, 1440), parts);
            let _ = parse(&bytes, Path::new("x"), (1, 1440), parts);
        }
    }
}
