//! What one chat template may cost. Templates come with models, from strangers: one that never ends, or grows without
//! bound, must be an error.

use crate::isolate::Bounds;
use std::io;
use std::time::Duration;

/// Bytes of a template's source. The longest of those known, with tools and documents, has 30 kB.
pub const MAX_SOURCE_BYTES: usize = 1 << 20;
/// Instructions of one rendering: about half a second. A message takes some hundred, so chats of 10 000 messages pass.
pub const MAX_INSTRUCTIONS: u64 = 10_000_000;
/// Bytes of rendered text: 16 million tokens or so.
pub const MAX_TEXT_BYTES: usize = 64 << 20;
/// Lists and maps within each other, in what is printed and in `tojson`. Messages and tools have less.
pub const MAX_DEPTH: usize = 200;

const MEMORY: usize = 256 << 20;
const TIME: Duration = Duration::from_secs(20);

/// Of a compilation: an expression nests as deep as its source has characters, at some hundred bytes of stack each.
pub fn compiling(source: usize) -> Bounds {
    Bounds { stack: (16 << 20) + 1024 * source, memory: 2 * MEMORY, time: TIME }
}

/// Of a rendering with `variables` bytes of JSON, which take some 20 times that as values. A template can nest a list
/// one deeper with every 7 instructions, and to free a level takes about 300 bytes of stack.
pub fn rendering(variables: usize) -> Bounds {
    Bounds { stack: 512 << 20, memory: MEMORY + 32 * variables, time: TIME }
}

/// Of reading a tokenizer.json: those of 300 000 tokens have 20 MB and take 200 MB while they are read.
pub fn loading(json: usize) -> Bounds {
    Bounds { stack: 64 << 20, memory: MEMORY + 48 * json, time: Duration::from_secs(300) }
}

/// Collects text up to MAX_TEXT_BYTES.
#[derive(Default)]
pub struct BoundedText(Vec<u8>);

impl BoundedText {
    pub fn into_string(self) -> Result<String, String> {
        String::from_utf8(self.0).map_err(|_| "the template wrote text that is not UTF-8".to_string())
    }
}

impl io::Write for BoundedText {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_TEXT_BYTES {
            return Err(io::Error::other(format!("the text is longer than {} MiB", MAX_TEXT_BYTES >> 20)));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
