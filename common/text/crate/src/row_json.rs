//! A Parquet value as JSON text, as a line of JSONL would have it.

use parquet::record::Field;

/// Appends `field`. What JSON has no number for (NaN, infinities) and bytes that are no text become null; decimals
/// become numbers up to the 15 digits that float64 holds, else strings; dates and times the text that Parquet's
/// tools print.
pub fn append(field: &Field, out: &mut Vec<u8>) {
    match field {
        Field::Null => out.extend_from_slice(b"null"),
        Field::Bool(value) => out.extend_from_slice(if *value { b"true" } else { b"false" }),
        Field::Byte(value) => append_integer(i64::from(*value), out),
        Field::Short(value) => append_integer(i64::from(*value), out),
        Field::Int(value) => append_integer(i64::from(*value), out),
        Field::Long(value) => append_integer(*value, out),
        Field::UByte(value) => append_integer(i64::from(*value), out),
        Field::UShort(value) => append_integer(i64::from(*value), out),
        Field::UInt(value) => append_integer(i64::from(*value), out),
        Field::ULong(value) => out.extend_from_slice(value.to_string().as_bytes()),
        Field::Float16(value) => append_float(f64::from(*value), out),
        Field::Float(value) => append_float(f64::from(*value), out),
        Field::Double(value) => append_float(*value, out),
        Field::Decimal(value) => {
            let text = field.to_string();
            if (1..=15).contains(&value.precision()) {
                out.extend_from_slice(text.as_bytes());
            } else {
                append_string(&text, out);
            }
        }
        Field::Str(text) => append_string(text, out),
        Field::Bytes(bytes) => match std::str::from_utf8(bytes.data()) {
            Ok(text) => append_string(text, out),
            Err(_) => out.extend_from_slice(b"null"),
        },
        Field::Date(_)
        | Field::TimeMillis(_)
        | Field::TimeMicros(_)
        | Field::TimestampMillis(_)
        | Field::TimestampMicros(_) => append_string(&field.to_string(), out),
        Field::Group(row) => {
            out.push(b'{');
            for (index, (name, value)) in row.get_column_iter().enumerate() {
                append_key(index, name, out);
                append(value, out);
            }
            out.push(b'}');
        }
        Field::ListInternal(list) => {
            out.push(b'[');
            for (index, element) in list.elements().iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                append(element, out);
            }
            out.push(b']');
        }
        Field::MapInternal(map) => {
            out.push(b'{');
            for (index, (key, value)) in map.entries().iter().enumerate() {
                match key {
                    Field::Str(name) => append_key(index, name, out),
                    other => append_key(index, &other.to_string(), out),
                }
                append(value, out);
            }
            out.push(b'}');
        }
    }
}

/// Appends the name of an object's member, after a comma unless it is the first.
pub fn append_key(index: usize, name: &str, out: &mut Vec<u8>) {
    if index > 0 {
        out.push(b',');
    }
    append_string(name, out);
    out.push(b':');
}

fn append_integer(value: i64, out: &mut Vec<u8>) {
    out.extend_from_slice(value.to_string().as_bytes());
}

fn append_float(value: f64, out: &mut Vec<u8>) {
    // Writing to a Vec cannot fail; of what is not finite serde_json makes null.
    let _ = serde_json::to_writer(out, &value);
}

fn append_string(text: &str, out: &mut Vec<u8>) {
    let _ = serde_json::to_writer(out, text);
}
