//! The part of the C interface that reads and writes Parquet.

use crate::boundary::{run, utf8, write_out, RollcallBytes};
use crate::isolate::Failure;
use crate::table::Table;
use crate::table_writer;

pub struct RollcallTable(Table);

/// # Safety
/// `path` holds `size` bytes; `out`, `out_groups` and `error` are writable.
#[no_mangle]
pub unsafe extern "C" fn rollcall_table_open(
    path: *const u8,
    size: usize,
    out: *mut *mut RollcallTable,
    out_groups: *mut RollcallBytes,
    error: *mut RollcallBytes,
) -> i32 {
    run(error, || {
        let table = Table::open(utf8(path, size)?)?;
        let numbers = table.groups().iter().flat_map(|group| [group.rows, group.bytes]);
        write_out(out_groups, numbers.flat_map(|number| number.to_ne_bytes()).collect());
        *out = Box::into_raw(Box::new(RollcallTable(table)));
        Ok(())
    })
}

/// # Safety
/// `table` comes from `rollcall_table_open` and is not used again.
#[no_mangle]
pub unsafe extern "C" fn rollcall_table_free(table: *mut RollcallTable) {
    if !table.is_null() {
        drop(Box::from_raw(table));
    }
}

/// # Safety
/// `table` is alive and used by one thread at a time; `out_rows` and `error` are writable.
#[no_mangle]
pub unsafe extern "C" fn rollcall_table_read(
    table: *mut RollcallTable,
    group: u64,
    first: u64,
    count: u64,
    out_rows: *mut RollcallBytes,
    error: *mut RollcallBytes,
) -> i32 {
    run(error, || {
        let group = usize::try_from(group).map_err(|e| e.to_string())?;
        write_out(out_rows, (*table).0.read(group, first, count)?);
        Ok(())
    })
}

/// # Safety
/// `path`, `rows` and `compression` hold as many bytes as stand beside them; `error` is writable.
#[no_mangle]
pub unsafe extern "C" fn rollcall_table_write(
    path: *const u8,
    path_size: usize,
    rows: *const u8,
    rows_size: usize,
    group_rows: u64,
    compression: *const u8,
    compression_size: usize,
    error: *mut RollcallBytes,
) -> i32 {
    run(error, || {
        let codec = table_writer::compression(utf8(compression, compression_size)?)?;
        let group_rows = usize::try_from(group_rows).map_err(|e| e.to_string())?;
        table_writer::write(utf8(path, path_size)?, utf8(rows, rows_size)?, group_rows, codec).map_err(Failure::Refused)
    })
}
