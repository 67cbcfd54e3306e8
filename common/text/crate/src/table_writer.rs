//! Lines of JSON as a Parquet file: columns and their types are those of all rows together, every one optional.
//!
//! Values are taken apart as Dremel does (Melnik et al. 2010, section 4.2): beside each value of a leaf stand the
//! definition level, how many optional and repeated parts of its path are there, and the repetition level, which list
//! of its path goes on with it.

use parquet::basic::{Compression, ConvertedType, LogicalType, Repetition, Type as PhysicalType, ZstdLevel};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DoubleType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::{Type, TypePtr};
use serde_json::Value;
use std::fs::File;
use std::sync::Arc;

/// As many as a reader of rows has in memory at once.
const PAGE_BYTES: usize = 1 << 20;

pub fn compression(name: &str) -> Result<Compression, String> {
    match name {
        "none" => Ok(Compression::UNCOMPRESSED),
        "snappy" => Ok(Compression::SNAPPY),
        "zstd" => Ok(Compression::ZSTD(ZstdLevel::default())),
        "gzip" => Ok(Compression::GZIP(Default::default())),
        other => Err(format!("expected none, snappy, zstd or gzip, got {other}")),
    }
}

/// Writes one object a line of `text` to a new file at `path`, `group_rows` rows a row group.
pub fn write(path: &str, text: &str, group_rows: usize, compression: Compression) -> Result<(), String> {
    let mut rows = Vec::new();
    let mut kind = Kind::Unknown;
    for (index, line) in text.lines().filter(|line| !line.trim().is_empty()).enumerate() {
        let row: Value = serde_json::from_str(line).map_err(|e| format!("row {index}: {e}"))?;
        if !row.is_object() {
            return Err(format!("row {index}: expected an object"));
        }
        kind.widen(&row, "").map_err(|e| format!("row {index}: {e}"))?;
        rows.push(row);
    }
    let Kind::Struct(columns) = &kind else { return Err("expected at least one row".into()) };
    if columns.is_empty() {
        return Err("expected at least one column".into());
    }
    write_rows(path, columns, &rows, group_rows.max(1), compression).map_err(|e| e.to_string())
}

/// What the values of a column are.
enum Kind {
    /// Only null so far.
    Unknown,
    Bool,
    Int,
    Float,
    Text,
    List(Box<Kind>),
    Struct(Vec<(String, Kind)>),
}

impl Kind {
    /// Makes room for `value` too.
    fn widen(&mut self, value: &Value, path: &str) -> Result<(), String> {
        if matches!(self, Kind::Unknown) {
            *self = match value {
                Value::Null => return Ok(()),
                Value::Bool(_) => Kind::Bool,
                Value::Number(number) if number.is_i64() => Kind::Int,
                Value::Number(_) => Kind::Float,
                Value::String(_) => Kind::Text,
                Value::Array(_) => Kind::List(Box::new(Kind::Unknown)),
                Value::Object(_) => Kind::Struct(Vec::new()),
            };
        }
        match (&mut *self, value) {
            (_, Value::Null) | (Kind::Bool, Value::Bool(_)) | (Kind::Text, Value::String(_)) => Ok(()),
            (Kind::Float, Value::Number(_)) => Ok(()),
            (Kind::Int, Value::Number(number)) => {
                if !number.is_i64() {
                    *self = Kind::Float;
                }
                Ok(())
            }
            (Kind::List(element), Value::Array(values)) => {
                values.iter().try_for_each(|value| element.widen(value, &format!("{path}[]")))
            }
            (Kind::Struct(members), Value::Object(object)) => {
                for (name, value) in object {
                    let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                    let index = members.iter().position(|(known, _)| known == name).unwrap_or_else(|| {
                        members.push((name.clone(), Kind::Unknown));
                        members.len() - 1
                    });
                    members[index].1.widen(value, &path)?;
                }
                Ok(())
            }
            _ => Err(format!("column \"{path}\" has values of several types; a Parquet column has one")),
        }
    }

    fn schema(&self, name: &str) -> Result<TypePtr, ParquetError> {
        let leaf = |physical| Type::primitive_type_builder(name, physical).with_repetition(Repetition::OPTIONAL);
        let group = |fields| {
            Type::group_type_builder(name).with_repetition(Repetition::OPTIONAL).with_fields(fields)
        };
        let schema = match self {
            Kind::Bool => leaf(PhysicalType::BOOLEAN).build()?,
            Kind::Int => leaf(PhysicalType::INT64).build()?,
            Kind::Float => leaf(PhysicalType::DOUBLE).build()?,
            Kind::Unknown | Kind::Text => {
                leaf(PhysicalType::BYTE_ARRAY).with_logical_type(Some(LogicalType::String)).build()?
            }
            Kind::List(element) => {
                let repeated = Type::group_type_builder("list")
                    .with_repetition(Repetition::REPEATED)
                    .with_fields(vec![element.schema("element")?])
                    .build()?;
                group(vec![Arc::new(repeated)])
                    .with_converted_type(ConvertedType::LIST)
                    .with_logical_type(Some(LogicalType::List))
                    .build()?
            }
            // A group has at least one member, so an object that never has one is a null text.
            Kind::Struct(members) if members.is_empty() => Kind::Unknown.schema(name)?.as_ref().clone(),
            Kind::Struct(members) => {
                let fields = members.iter().map(|(name, kind)| kind.schema(name)).collect::<Result<_, _>>()?;
                group(fields).build()?
            }
        };
        Ok(Arc::new(schema))
    }

    fn add_leaves(&self, leaves: &mut Vec<Leaf>) {
        let values = match self {
            Kind::Bool => Values::Bool(Vec::new()),
            Kind::Int => Values::Int(Vec::new()),
            Kind::Float => Values::Float(Vec::new()),
            Kind::Unknown | Kind::Text => Values::Text(Vec::new()),
            Kind::List(element) => return element.add_leaves(leaves),
            Kind::Struct(members) if members.is_empty() => Values::Text(Vec::new()),
            Kind::Struct(members) => return members.iter().for_each(|(_, kind)| kind.add_leaves(leaves)),
        };
        leaves.push(Leaf { values, definition: Vec::new(), repetition: Vec::new() });
    }
}

enum Values {
    Bool(Vec<bool>),
    Int(Vec<i64>),
    Float(Vec<f64>),
    Text(Vec<ByteArray>),
}

/// A column of the file.
struct Leaf {
    values: Values,
    definition: Vec<i16>,
    repetition: Vec<i16>,
}

impl Leaf {
    fn push(&mut self, value: &Value) {
        match (&mut self.values, value) {
            (Values::Bool(values), Value::Bool(value)) => values.push(*value),
            (Values::Int(values), Value::Number(value)) => values.push(value.as_i64().unwrap_or_default()),
            (Values::Float(values), Value::Number(value)) => values.push(value.as_f64().unwrap_or_default()),
            (Values::Text(values), Value::String(value)) => values.push(value.as_str().into()),
            _ => {}
        }
    }
}

/// Levels of the value that is being taken apart.
#[derive(Clone, Copy)]
struct Levels {
    definition: i16,
    /// Of its first leaf, and of the lists around it.
    repetition: i16,
    lists: i16,
}

/// Takes `value` apart over the leaves of `kind`, which are those from `leaves[0]` on; returns how many they are.
fn shred(kind: &Kind, value: Option<&Value>, levels: Levels, leaves: &mut [Leaf]) -> usize {
    let value = value.filter(|value| !value.is_null());
    let here = Levels { definition: levels.definition + 1, ..levels };
    match (kind, value) {
        (Kind::Struct(members), _) if !members.is_empty() => {
            let mut count = 0;
            for (name, kind) in members {
                let (member, levels) = match value {
                    Some(object) => (object.get(name), here),
                    None => (None, levels),
                };
                count += shred(kind, member, levels, &mut leaves[count..]);
            }
            count
        }
        (Kind::List(element), Some(Value::Array(values))) if !values.is_empty() => {
            let mut count = 0;
            for (index, value) in values.iter().enumerate() {
                let levels = Levels {
                    definition: here.definition + 1,
                    repetition: if index == 0 { levels.repetition } else { levels.lists + 1 },
                    lists: levels.lists + 1,
                };
                count = shred(element, Some(value), levels, leaves);
            }
            count
        }
        (Kind::List(element), _) => {
            // Nothing in it: the levels end at the list, or before it.
            let end = if value.is_some() { here } else { levels };
            shred(element, None, end, leaves)
        }
        (Kind::Struct(_), _) | (_, None) => {
            leaves[0].definition.push(levels.definition);
            leaves[0].repetition.push(levels.repetition);
            1
        }
        (_, Some(value)) => {
            leaves[0].push(value);
            leaves[0].definition.push(here.definition);
            leaves[0].repetition.push(levels.repetition);
            1
        }
    }
}

fn write_rows(
    path: &str,
    columns: &[(String, Kind)],
    rows: &[Value],
    group_rows: usize,
    compression: Compression,
) -> Result<(), ParquetError> {
    let fields = columns.iter().map(|(name, kind)| kind.schema(name)).collect::<Result<_, _>>()?;
    let schema = Arc::new(Type::group_type_builder("row").with_fields(fields).build()?);
    let properties =
        WriterProperties::builder().set_compression(compression).set_data_page_size_limit(PAGE_BYTES).build();
    let mut writer = SerializedFileWriter::new(File::create(path)?, schema, Arc::new(properties))?;
    for rows in rows.chunks(group_rows) {
        let mut leaves = Vec::new();
        columns.iter().for_each(|(_, kind)| kind.add_leaves(&mut leaves));
        for row in rows {
            let mut count = 0;
            for (name, kind) in columns {
                let levels = Levels { definition: 0, repetition: 0, lists: 0 };
                count += shred(kind, row.get(name), levels, &mut leaves[count..]);
            }
        }
        let mut group = writer.next_row_group()?;
        for leaf in &leaves {
            let mut column = group.next_column()?.expect("a column for each leaf");
            let (definition, repetition) = (Some(&leaf.definition[..]), Some(&leaf.repetition[..]));
            match &leaf.values {
                Values::Bool(values) => column.typed::<BoolType>().write_batch(values, definition, repetition)?,
                Values::Int(values) => column.typed::<Int64Type>().write_batch(values, definition, repetition)?,
                Values::Float(values) => column.typed::<DoubleType>().write_batch(values, definition, repetition)?,
                Values::Text(values) => column.typed::<ByteArrayType>().write_batch(values, definition, repetition)?,
            };
            column.close()?;
        }
        group.close()?;
    }
    let file = writer.into_inner()?;
    file.sync_all()?;
    Ok(())
}
