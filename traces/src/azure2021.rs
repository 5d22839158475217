//! Azure Functions 2021 (Zhang et al., SOSP 2021): one file, one row an invocation.
//!
//! `app,func,end_timestamp,duration`, times in seconds. A request arrives at its end less its duration; the
//! rows are sorted by that here. A function is an (app, func): the same func in two apps is two functions.

use std::path::Path;

use crate::TraceError;
use crate::events::Events;
use crate::options::TraceOptions;
use crate::table::Table;
use crate::trace::Trace;

/// Columns, as in the published header.
pub(crate) const COLUMNS: [&str; 4] = ["app", "func", "end_timestamp", "duration"];

/// Opens the file.
pub(crate) fn open(source: String, path: &Path, options: &TraceOptions) -> Result<Trace, TraceError> {
    let mut table = Table::open(path, &COLUMNS, &[])?;
    let mut events = Events::default();
    while table.next_row()? {
        let (end, run) = (table.number(2)?, table.number(3)?);
        let function = events.function(table.text(0)?, table.text(1)?);
        events.has_run(function);
        let line = table.line();
        events.add(end - run.max(0.0), function, Some(run), options, &|| format!("{}, line {line}", path.display()));
    }
    events.report.file(path, table.rows());
    events.into_trace(source, path, options)
}
