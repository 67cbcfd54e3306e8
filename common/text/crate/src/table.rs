//! Rows of a Parquet file as lines of JSON.
//!
//! A row group is read from its beginning on, column by column, with one page of each in memory; where the next rows
//! asked for follow those read last, reading goes on there. All of it runs within the bounds of `isolate`, for a file's
//! sizes and counts come from strangers.

use crate::boundary::take_panic;
use crate::isolate::{self, Bounds, Failure};
use crate::row_json;
use crate::table_file::TableFile;
use crate::table_footer;
use parquet::file::metadata::ParquetStatisticsPolicy;
use parquet::file::reader::FileReader;
use parquet::file::serialized_reader::{ReadOptionsBuilder, SerializedFileReader};
use parquet::record::reader::{ReaderIter, TreeBuilder};
use parquet::record::Field;
use parquet::schema::types::{SchemaDescriptor, Type};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Arc;
use std::time::Duration;

/// Of one call: a page of every column, and the rows asked for. Writers make pages of 1 MB.
const READ_MEMORY: usize = 512 << 20;
const STACK: usize = 64 << 20;
const TIME: Duration = Duration::from_secs(120);

#[derive(Clone, Copy)]
pub struct RowGroup {
    pub rows: u64,
    /// Without compression, by the file's own account.
    pub bytes: u64,
}

pub struct Table {
    // None after a call was abandoned, which took it along.
    state: Option<State>,
    groups: Vec<RowGroup>,
}

struct State {
    file: SerializedFileReader<TableFile>,
    /// Name and schema of each column, which is read by itself so that errors can name it.
    columns: Vec<(String, Arc<SchemaDescriptor>)>,
    cursor: Option<Cursor>,
}

/// Where reading stands within a row group.
struct Cursor {
    group: usize,
    next_row: u64,
    readers: Vec<ReaderIter>,
}

impl Table {
    pub fn open(path: &str) -> Result<Self, Failure> {
        let file = TableFile::open(path)?;
        let footer = table_footer::check(&file)?;
        // Of each byte of the footer, up to 16 of structures.
        let bounds = Bounds { stack: STACK, memory: (64 << 20) + 24 * footer, time: TIME };
        let state = isolate::run("reading its footer", bounds, move || State::open(file));
        let state = state.map_err(|failure| match failure {
            Failure::Panicked(message) => Failure::Refused(format!("its footer is damaged: {message}")),
            other => other,
        })?;
        let groups = state.groups()?;
        Ok(Table { state: Some(state), groups })
    }

    pub fn groups(&self) -> &[RowGroup] {
        &self.groups
    }

    /// `count` rows of a group from `first` on, each an object on a line of its own.
    pub fn read(&mut self, group: usize, first: u64, count: u64) -> Result<Vec<u8>, Failure> {
        let rows = self.groups.get(group).map_or(0, |group| group.rows);
        if count > rows || first > rows - count {
            return Err(format!("row group {group} has no rows {first} to {}", first.saturating_add(count)).into());
        }
        let Some(mut state) = self.state.take() else {
            return Err("it was given up after an error before".to_string().into());
        };
        let bounds = Bounds { stack: STACK, memory: READ_MEMORY, time: TIME };
        // An error of the rows leaves the file usable, so it is a value here.
        let work = move || {
            let rows = state.read(group, first, count);
            if rows.is_err() {
                state.cursor = None;
            }
            Ok((state, rows))
        };
        let (state, rows) = isolate::run(&format!("reading row group {group}"), bounds, work)?;
        self.state = Some(state);
        rows.map_err(Failure::Refused)
    }
}

/// What `body` returns, a panic of the library's as a message.
fn guarded<T>(body: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|_| Err(take_panic()))
}

impl State {
    fn open(file: TableFile) -> Result<Self, String> {
        let options = ReadOptionsBuilder::new()
            .with_column_stats_policy(ParquetStatisticsPolicy::SkipAll)
            .with_size_stats_policy(ParquetStatisticsPolicy::SkipAll)
            .with_encoding_stats_policy(ParquetStatisticsPolicy::SkipAll)
            .build();
        let file = SerializedFileReader::new_with_options(file, options).map_err(|e| e.to_string())?;
        let schema = file.metadata().file_metadata().schema();
        let mut columns = Vec::new();
        for field in schema.get_fields() {
            let alone = Type::group_type_builder(schema.name())
                .with_fields(vec![Arc::clone(field)])
                .build()
                .map_err(|e| e.to_string())?;
            columns.push((field.name().to_string(), Arc::new(SchemaDescriptor::new(Arc::new(alone)))));
        }
        if columns.is_empty() {
            return Err("it has no columns".into());
        }
        Ok(State { file, columns, cursor: None })
    }

    fn groups(&self) -> Result<Vec<RowGroup>, String> {
        let mut groups = Vec::new();
        for (index, group) in self.file.metadata().row_groups().iter().enumerate() {
            let rows = u64::try_from(group.num_rows())
                .map_err(|_| format!("row group {index} has {} rows", group.num_rows()))?;
            groups.push(RowGroup { rows, bytes: u64::try_from(group.total_byte_size()).unwrap_or(0) });
        }
        Ok(groups)
    }

    fn read(&mut self, group: usize, first: u64, count: u64) -> Result<Vec<u8>, String> {
        let starts_over = !matches!(&self.cursor, Some(at) if at.group == group && at.next_row <= first);
        if starts_over {
            self.cursor = Some(self.start(group)?);
        }
        let cursor = self.cursor.as_mut().expect("set above");
        let skipped = first - cursor.next_row;
        let mut values: Vec<Vec<Field>> = Vec::with_capacity(self.columns.len());
        for ((name, _), reader) in self.columns.iter().zip(&mut cursor.readers) {
            let mut row = cursor.next_row;
            let column = guarded(|| {
                let mut fields = Vec::with_capacity(count as usize);
                for index in 0..skipped + count {
                    row = cursor.next_row + index;
                    let field = reader.next().ok_or("it ends here")?.map_err(|e| e.to_string())?;
                    if index >= skipped {
                        fields.push(field.into_columns().into_iter().next().map_or(Field::Null, |(_, value)| value));
                    }
                }
                Ok(fields)
            });
            values.push(column.map_err(|e| format!("row group {group}, row {row} of it, column \"{name}\": {e}"))?);
        }
        cursor.next_row = first + count;
        self.as_lines(group, values, count)
    }

    fn as_lines(&self, group: usize, values: Vec<Vec<Field>>, count: u64) -> Result<Vec<u8>, String> {
        let mut text = Vec::new();
        for row in 0..count as usize {
            text.push(b'{');
            for (index, ((name, _), fields)) in self.columns.iter().zip(&values).enumerate() {
                row_json::append_key(index, name, &mut text);
                guarded(|| {
                    row_json::append(&fields[row], &mut text);
                    Ok(())
                })
                .map_err(|e| format!("row group {group}, column \"{name}\": {e}"))?;
            }
            text.extend_from_slice(b"}\n");
        }
        Ok(text)
    }

    fn start(&self, group: usize) -> Result<Cursor, String> {
        let mut readers = Vec::new();
        for (name, schema) in &self.columns {
            let reader = guarded(|| {
                let row_group = self.file.get_row_group(group).map_err(|e| e.to_string())?;
                TreeBuilder::new().as_iter(Arc::clone(schema), &*row_group).map_err(|e| e.to_string())
            });
            readers.push(reader.map_err(|e| format!("row group {group}, column \"{name}\": {e}"))?);
        }
        Ok(Cursor { group, next_row: 0, readers })
    }
}
