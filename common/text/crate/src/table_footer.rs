//! What a Parquet file's footer must be before the library may read it.
//!
//! The library builds the schema by recursion, one call a level, from a list that a footer of 1 MB can fill with 200 000
//! levels: more stack than any thread has, and a stack that overflows takes the process along. So the levels are
//! counted here first, by a walk over the footer's Thrift (compact protocol) that allocates nothing.

use crate::table_file::TableFile;

/// Levels of columns: rows of JSON may have 66.
const MAX_LEVELS: usize = 66;
/// Bytes of a footer. 50 000 row groups of ten columns have about as many.
pub const MAX_FOOTER_BYTES: usize = 64 << 20;
const TAIL_BYTES: u64 = 8;
const SCHEMA_FIELD: i16 = 2;
const NUM_CHILDREN_FIELD: i16 = 5;

/// Checks the footer; returns its size.
pub fn check(file: &TableFile) -> Result<usize, String> {
    let size = file.size();
    if size < 4 + TAIL_BYTES {
        return Err(format!("a Parquet file has at least 12 bytes, this one {size}"));
    }
    let mut tail = [0u8; TAIL_BYTES as usize];
    file.read_exact_at(&mut tail, size - TAIL_BYTES).map_err(|e| e.to_string())?;
    match &tail[4..] {
        b"PAR1" => {}
        b"PARE" => return Err("it is encrypted".into()),
        _ => return Err("it does not end as a Parquet file does: it is another format, or its end is missing".into()),
    }
    let footer = u32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]) as usize;
    if footer as u64 > size - TAIL_BYTES - 4 {
        return Err(format!("its footer of {footer} bytes is longer than the file: its end is missing or damaged"));
    }
    if footer > MAX_FOOTER_BYTES {
        return Err(format!("its footer has {footer} bytes, {MAX_FOOTER_BYTES} are allowed: write larger row groups"));
    }
    let mut bytes = vec![0u8; footer];
    file.read_exact_at(&mut bytes, size - TAIL_BYTES - footer as u64).map_err(|e| e.to_string())?;
    let levels = schema_levels(&bytes).ok_or("its footer is damaged")?;
    if levels > MAX_LEVELS {
        return Err(format!("its columns nest deeper than {MAX_LEVELS} levels"));
    }
    Ok(footer)
}

/// Thrift's compact protocol, as far as it takes to step over values.
struct Walk<'a> {
    bytes: &'a [u8],
    at: usize,
}

const STOP: u8 = 0;
const I32: u8 = 5;
const LIST: u8 = 9;
const STRUCT: u8 = 12;
const MAX_SKIP_DEPTH: usize = 32;

impl Walk<'_> {
    fn byte(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn zigzag(&mut self) -> Option<i64> {
        let value = self.varint()?;
        Some((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    fn advance(&mut self, bytes: u64) -> Option<()> {
        self.at = self.at.checked_add(usize::try_from(bytes).ok()?)?;
        (self.at <= self.bytes.len()).then_some(())
    }

    /// The next field of a struct: its id and type; type STOP at the end.
    fn field(&mut self, last: i16) -> Option<(i16, u8)> {
        let header = self.byte()?;
        if header == STOP {
            return Some((0, STOP));
        }
        let delta = i16::from(header >> 4);
        let id = if delta == 0 { i16::try_from(self.zigzag()?).ok()? } else { last.checked_add(delta)? };
        Some((id, header & 0x0f))
    }

    /// The type and number of a list's elements.
    fn list(&mut self) -> Option<(u8, u64)> {
        let header = self.byte()?;
        let short = u64::from(header >> 4);
        let size = if short == 15 { self.varint()? } else { short };
        Some((header & 0x0f, size))
    }

    fn skip(&mut self, kind: u8, in_list: bool, depth: usize) -> Option<()> {
        if depth == 0 {
            return None;
        }
        match kind {
            1 | 2 if !in_list => Some(()),
            1..=3 => self.advance(1),
            4..=6 => self.varint().map(|_| ()),
            7 => self.advance(8),
            8 => {
                let size = self.varint()?;
                self.advance(size)
            }
            9 | 10 => {
                let (element, size) = self.list()?;
                for _ in 0..size {
                    self.skip(element, true, depth - 1)?;
                }
                Some(())
            }
            11 => {
                let size = self.varint()?;
                if size == 0 {
                    return Some(());
                }
                let kinds = self.byte()?;
                for _ in 0..size {
                    self.skip(kinds >> 4, true, depth - 1)?;
                    self.skip(kinds & 0x0f, true, depth - 1)?;
                }
                Some(())
            }
            STRUCT => {
                let mut last = 0;
                loop {
                    let (id, kind) = self.field(last)?;
                    if kind == STOP {
                        return Some(());
                    }
                    self.skip(kind, false, depth - 1)?;
                    last = id;
                }
            }
            13 => self.advance(16),
            _ => None,
        }
    }

    /// Of one SchemaElement: how many children it has.
    fn children(&mut self) -> Option<i64> {
        let (mut last, mut children) = (0, 0);
        loop {
            let (id, kind) = self.field(last)?;
            match (id, kind) {
                (_, STOP) => return Some(children),
                (NUM_CHILDREN_FIELD, I32) => children = self.zigzag()?,
                _ => self.skip(kind, false, MAX_SKIP_DEPTH)?,
            }
            last = id;
        }
    }
}

/// How deep the columns nest that a footer describes, counted up to a little more than MAX_LEVELS.
fn schema_levels(footer: &[u8]) -> Option<usize> {
    let mut walk = Walk { bytes: footer, at: 0 };
    let mut last = 0;
    loop {
        let (id, kind) = walk.field(last)?;
        match (id, kind) {
            (_, STOP) => return None,
            (SCHEMA_FIELD, LIST) => break,
            _ => walk.skip(kind, false, MAX_SKIP_DEPTH)?,
        }
        last = id;
    }
    let (kind, size) = walk.list()?;
    if kind != STRUCT {
        return None;
    }
    // Children that are still to come, of each open level.
    let mut open: Vec<i64> = Vec::with_capacity(MAX_LEVELS + 2);
    let mut deepest = 0;
    for _ in 0..size {
        let children = walk.children()?;
        if children < 0 {
            return None;
        }
        if let Some(left) = open.last_mut() {
            *left -= 1;
        }
        if children > 0 {
            open.push(children);
            deepest = deepest.max(open.len());
            if deepest > MAX_LEVELS {
                return Some(deepest);
            }
        }
        while open.last() == Some(&0) {
            open.pop();
        }
    }
    Some(deepest)
}
