//! A file that many readers share: every read names its place.

use bytes::Bytes;
use parquet::errors::{ParquetError, Result};
use parquet::file::reader::{ChunkReader, Length};
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

#[derive(Clone)]
pub struct TableFile {
    file: Arc<File>,
    size: u64,
}

impl TableFile {
    pub fn open(path: &str) -> std::result::Result<Self, String> {
        let file = File::open(path).map_err(|e| e.to_string())?;
        let about = file.metadata().map_err(|e| e.to_string())?;
        if !about.is_file() {
            return Err("it is no file".into());
        }
        Ok(TableFile { file: Arc::new(file), size: about.len() })
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    pub fn read_exact_at(&self, bytes: &mut [u8], at: u64) -> io::Result<()> {
        self.file.read_exact_at(bytes, at)
    }
}

/// The file from one place on.
pub struct FileFrom {
    file: Arc<File>,
    at: u64,
}

impl Read for FileFrom {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(bytes, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

impl Length for TableFile {
    fn len(&self) -> u64 {
        self.size
    }
}

impl ChunkReader for TableFile {
    type T = BufReader<FileFrom>;

    fn get_read(&self, start: u64) -> Result<Self::T> {
        Ok(BufReader::new(FileFrom { file: Arc::clone(&self.file), at: start }))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        if start.checked_add(length as u64).is_none_or(|end| end > self.size) {
            return Err(ParquetError::EOF(format!("{length} bytes from byte {start} on are not in the file")));
        }
        let mut bytes = vec![0u8; length];
        self.read_exact_at(&mut bytes, start)?;
        Ok(bytes.into())
    }
}
