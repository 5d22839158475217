//! Tables of rows as Parquet files, which R, pandas, Polars and DuckDB read.
//!
//! Every column may have gaps. A file is written a row group at a time, so that nothing grows with its length, and files of the same columns are
//! put one after the other as they are, without being decoded.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use parquet::basic::{Compression, LogicalType, Repetition, Type as Physical};
use parquet::column::reader::get_typed_column_reader;
use parquet::column::writer::ColumnCloseResult;
use parquet::data_type::{ByteArray, ByteArrayType, DataType, DoubleType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::types::{Type, TypePtr};

/// A text of a column; clones share it.
pub type Text = ByteArray;

/// One column of rows.
pub struct Column {
    name: String,
    values: Values,
}

enum Values {
    Floats(Vec<Option<f64>>),
    Wholes(Vec<Option<u64>>),
    Texts(Vec<Option<Text>>),
}

impl Column {
    /// Numbers, with a fraction.
    pub fn floats<V: Into<Option<f64>>>(name: &str, values: impl Iterator<Item = V>) -> Self {
        Self { name: name.to_owned(), values: Values::Floats(values.map(Into::into).collect()) }
    }

    /// Whole numbers from 0.
    pub fn wholes<V: Into<Option<u64>>>(name: &str, values: impl Iterator<Item = V>) -> Self {
        Self { name: name.to_owned(), values: Values::Wholes(values.map(Into::into).collect()) }
    }

    /// Texts.
    pub fn texts<V: Into<Option<Text>>>(name: &str, values: impl Iterator<Item = V>) -> Self {
        Self { name: name.to_owned(), values: Values::Texts(values.map(Into::into).collect()) }
    }

    fn rows(&self) -> usize {
        match &self.values {
            Values::Floats(v) => v.len(),
            Values::Wholes(v) => v.len(),
            Values::Texts(v) => v.len(),
        }
    }

    fn field(&self) -> parquet::errors::Result<TypePtr> {
        let (physical, logical) = match &self.values {
            Values::Floats(_) => (Physical::DOUBLE, None),
            Values::Wholes(_) => (Physical::INT64, Some(LogicalType::integer(64, false))),
            Values::Texts(_) => (Physical::BYTE_ARRAY, Some(LogicalType::String)),
        };
        let field = Type::primitive_type_builder(&self.name, physical).with_repetition(Repetition::OPTIONAL);
        Ok(Arc::new(field.with_logical_type(logical).build()?))
    }

    fn write(&self, group: &mut SerializedRowGroupWriter<'_, File>) -> parquet::errors::Result<()> {
        match &self.values {
            Values::Floats(values) => write_column::<DoubleType, _>(group, values, |v| *v),
            // Parquet keeps an unsigned number as the signed one of the same bits.
            Values::Wholes(values) => write_column::<Int64Type, _>(group, values, |v| v.cast_signed()),
            Values::Texts(values) => write_column::<ByteArrayType, _>(group, values, ByteArray::clone),
        }
    }
}

fn write_column<D: DataType, V>(
    group: &mut SerializedRowGroupWriter<'_, File>,
    values: &[Option<V>],
    value: impl Fn(&V) -> D::T,
) -> parquet::errors::Result<()> {
    let there: Vec<i16> = values.iter().map(|v| i16::from(v.is_some())).collect();
    let values: Vec<D::T> = values.iter().flatten().map(value).collect();
    if let Some(mut column) = group.next_column()? {
        column.typed::<D>().write_batch(&values, Some(&there), None)?;
        column.close()?;
    }
    Ok(())
}

/// Writes a table to a file.
pub struct TableWriter {
    out: SerializedFileWriter<File>,
}

impl TableWriter {
    /// A file of such columns, without their rows.
    pub fn new(path: &Path, columns: &[Column]) -> anyhow::Result<Self> {
        let fields = columns.iter().map(Column::field).collect::<Result<Vec<_>, _>>()?;
        Self::of(path, Arc::new(Type::group_type_builder("schema").with_fields(fields).build()?))
    }

    fn of(path: &Path, schema: TypePtr) -> anyhow::Result<Self> {
        let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
        Ok(Self { out: SerializedFileWriter::new(file, schema, Arc::new(properties))? })
    }

    /// Adds rows, of the columns that the file was made with.
    pub fn write(&mut self, columns: &[Column]) -> anyhow::Result<()> {
        if columns.first().is_none_or(|c| c.rows() == 0) {
            return Ok(());
        }
        let mut group = self.out.next_row_group()?;
        for column in columns {
            column.write(&mut group)?;
        }
        group.close()?;
        Ok(())
    }

    /// Ends the file.
    pub fn finish(self) -> anyhow::Result<()> {
        self.out.close()?;
        Ok(())
    }
}

fn open(path: &Path) -> anyhow::Result<SerializedFileReader<File>> {
    let broken = || format!("cannot read {} back; delete it and run again", path.display());
    SerializedFileReader::new(File::open(path).with_context(broken)?).with_context(broken)
}

/// Writes the rows of files of the same columns to one file, those that are there. Whether there was any.
pub fn concatenate<P: AsRef<Path>>(paths: impl Iterator<Item = P>, into: &Path) -> anyhow::Result<bool> {
    let mut out = None;
    for path in paths.filter(|p| p.as_ref().exists()) {
        let path = path.as_ref();
        let reader = open(path)?;
        let rows = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
        let metadata = reader.metadata();
        let schema = metadata.file_metadata().schema_descr().root_schema_ptr();
        let out = match &mut out {
            Some(out) => out,
            None => out.insert(TableWriter::of(into, schema)?),
        };
        for from in metadata.row_groups() {
            let mut group = out.out.next_row_group()?;
            for column in from.columns() {
                let written = ColumnCloseResult {
                    bytes_written: column.compressed_size().cast_unsigned(),
                    rows_written: from.num_rows().cast_unsigned(),
                    metadata: column.clone(),
                    bloom_filter: None,
                    column_index: None,
                    offset_index: None,
                };
                group
                    .append_column(&rows, written)
                    .with_context(|| format!("{} has other columns than the files before it", path.display()))?;
            }
            group.close()?;
        }
    }
    let any = out.is_some();
    if let Some(out) = out {
        out.finish()?;
    }
    Ok(any)
}

/// Columns of a file, read whole.
pub struct TableReader {
    reader: SerializedFileReader<File>,
    path: String,
    places: BTreeMap<String, usize>,
}

impl TableReader {
    /// Opens a file.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let reader = open(path)?;
        let columns = reader.metadata().file_metadata().schema_descr().columns();
        let places = columns.iter().enumerate().map(|(i, c)| (c.name().to_owned(), i)).collect();
        Ok(Self { reader, path: path.display().to_string(), places })
    }

    /// A column of numbers with a fraction.
    pub fn floats(&self, name: &str) -> anyhow::Result<Vec<Option<f64>>> {
        self.column::<DoubleType>(name)
    }

    /// A column of whole numbers.
    pub fn wholes(&self, name: &str) -> anyhow::Result<Vec<Option<u64>>> {
        Ok(self.column::<Int64Type>(name)?.into_iter().map(|v| v.map(i64::cast_unsigned)).collect())
    }

    /// A column of texts.
    pub fn texts(&self, name: &str) -> anyhow::Result<Vec<Option<String>>> {
        let texts = self.column::<ByteArrayType>(name)?;
        Ok(texts.into_iter().map(|v| v.map(|v| String::from_utf8_lossy(v.data()).into_owned())).collect())
    }

    fn column<D: DataType>(&self, name: &str) -> anyhow::Result<Vec<Option<D::T>>> {
        let broken = || format!("cannot read the column `{name}` of {} back; delete it and run again", self.path);
        let place = *self.places.get(name).with_context(broken)?;
        let physical = self.reader.metadata().file_metadata().schema_descr().column(place).physical_type();
        anyhow::ensure!(physical == D::get_physical_type(), broken());
        let mut column = Vec::new();
        for group in 0..self.reader.num_row_groups() {
            let group = self.reader.get_row_group(group).with_context(broken)?;
            let rows = usize::try_from(group.metadata().num_rows()).with_context(broken)?;
            let mut reader = get_typed_column_reader::<D>(group.get_column_reader(place).with_context(broken)?);
            let (mut there, mut values) = (Vec::with_capacity(rows), Vec::with_capacity(rows));
            let (read, ..) = reader.read_records(rows, Some(&mut there), None, &mut values).with_context(broken)?;
            anyhow::ensure!(read == rows, broken());
            let mut values = values.into_iter();
            column.extend(there.iter().map(|there| if *there == 1 { values.next() } else { None }));
        }
        Ok(column)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(from: u64) -> [Column; 3] {
        [
            Column::wholes("number", (from..from + 3).map(|n| (n != 1).then_some(u64::MAX - n))),
            Column::floats("share", (from..from + 3).map(|n| if n == 0 { None } else { Some(n as f64 / 8.0) })),
            Column::texts("name", (from..from + 3).map(|n| Text::from(format!("é{n}").as_str()))),
        ]
    }

    fn check(path: &Path, numbers: impl Iterator<Item = u64> + Clone) {
        let read = TableReader::open(path).unwrap();
        let wholes: Vec<_> = numbers.clone().map(|n| (n != 1).then_some(u64::MAX - n)).collect();
        assert_eq!(read.wholes("number").unwrap(), wholes);
        let floats: Vec<_> = numbers.clone().map(|n| (n != 0).then_some(n as f64 / 8.0)).collect();
        assert_eq!(read.floats("share").unwrap(), floats);
        assert_eq!(read.texts("name").unwrap(), numbers.map(|n| Some(format!("é{n}"))).collect::<Vec<_>>());
    }

    #[test]
    fn what_is_written_comes_back_and_files_are_put_together() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for (name, from) in [("a", 0), ("b", 100)] {
            let mut out = TableWriter::new(&path(name), &table(from)).unwrap();
            out.write(&table(from)).unwrap();
            out.write(&table(from + 3)).unwrap();
            out.finish().unwrap();
            check(&path(name), from..from + 6);
        }
        let files = ["a", "not there", "b"].map(path);
        assert!(concatenate(files.iter(), &path("c")).unwrap());
        check(&path("c"), (0..6).chain(100..106));
        assert!(!concatenate([path("not there")].iter(), &path("d")).unwrap());
    }

    #[test]
    fn a_table_without_rows_keeps_its_columns() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("empty");
        let nothing = [Column::floats("x", std::iter::empty::<f64>())];
        let mut out = TableWriter::new(&path, &nothing).unwrap();
        out.write(&nothing).unwrap();
        out.finish().unwrap();
        assert_eq!(TableReader::open(&path).unwrap().floats("x").unwrap(), []);
    }

    #[test]
    fn damage_and_other_columns_are_errors_that_name_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let mut out = TableWriter::new(&path("a"), &table(0)).unwrap();
        out.write(&table(0)).unwrap();
        out.finish().unwrap();
        let read = TableReader::open(&path("a")).unwrap();
        for wrong in [read.floats("number").err(), read.floats("nothing").err()] {
            assert!(wrong.unwrap().to_string().contains("/a back"));
        }
        let bytes = std::fs::read(path("a")).unwrap();
        std::fs::write(path("cut"), &bytes[..bytes.len() - 10]).unwrap();
        assert!(TableReader::open(&path("cut")).err().unwrap().to_string().contains("/cut back"));
        let other = [Column::floats("x", [1.0].into_iter())];
        let mut out = TableWriter::new(&path("other"), &other).unwrap();
        out.write(&other).unwrap();
        out.finish().unwrap();
        let wrong = concatenate(["a", "other"].map(path).iter(), &path("c")).unwrap_err();
        assert!(wrong.to_string().contains("other has other columns"), "{wrong:#}");
    }
}
