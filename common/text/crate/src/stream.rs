//! Text of a growing sequence of ids, whole characters only.

use std::sync::Arc;
use tokenizers::Tokenizer;

const REPLACEMENT: char = char::REPLACEMENT_CHARACTER;

/// A character spans at most 4 bytes and so at most 4 ids; text that still ends in U+FFFD after this many ids is
/// garbage, and holding it longer would only make each step dearer.
const MAX_HELD_IDS: usize = 64;

/// Decodes a short window instead of the whole sequence: the ids printed last (decoders treat the first id of a text
/// specially, so new ids need something before them) and the ids not printed yet.
pub struct StreamDecoder {
    tokenizer: Arc<Tokenizer>,
    skip_special_tokens: bool,
    window: Vec<u32>,
    /// How many ids at the window's front are printed, and their text.
    printed_ids: usize,
    printed_text: String,
}

impl StreamDecoder {
    pub fn new(tokenizer: Arc<Tokenizer>, skip_special_tokens: bool) -> Self {
        Self { tokenizer, skip_special_tokens, window: Vec::new(), printed_ids: 0, printed_text: String::new() }
    }

    /// The text that `id` completes, often one token's, empty while a character is unfinished.
    pub fn step(&mut self, id: u32) -> Result<String, String> {
        if self.prints_nothing(id) {
            return Ok(String::new());
        }
        self.window.push(id);
        let text = self.decode(&self.window)?;
        let held = self.window.len() - self.printed_ids;
        if text.ends_with(REPLACEMENT) && held < MAX_HELD_IDS {
            return Ok(String::new());
        }
        let new_text = self.beyond_printed(&text)?;
        if new_text.is_empty() && held < MAX_HELD_IDS {
            return Ok(new_text);
        }
        self.window.drain(..self.printed_ids);
        self.printed_ids = self.window.len();
        self.printed_text = self.decode(&self.window)?;
        Ok(new_text)
    }

    /// The held text, with U+FFFD for what never became a character; afterwards the decoder starts a new text.
    pub fn flush(&mut self) -> Result<String, String> {
        let text = self.decode(&self.window)?;
        let rest = self.beyond_printed(&text)?;
        self.window.clear();
        self.printed_ids = 0;
        self.printed_text.clear();
        Ok(rest)
    }

    /// Ids outside the vocabulary, and special tokens when they are skipped.
    fn prints_nothing(&self, id: u32) -> bool {
        match self.tokenizer.id_to_token(id) {
            None => true,
            Some(token) => {
                self.skip_special_tokens && self.tokenizer.get_added_vocabulary().is_special_token(&token)
            }
        }
    }

    /// A run of byte tokens can change the text of its own beginning (one bad byte voids the whole run). What is
    /// printed cannot be taken back, so then the new ids are decoded on their own.
    fn beyond_printed(&self, text: &str) -> Result<String, String> {
        match text.strip_prefix(self.printed_text.as_str()) {
            Some(rest) => Ok(rest.to_string()),
            None => self.decode(&self.window[self.printed_ids..]),
        }
    }

    fn decode(&self, ids: &[u32]) -> Result<String, String> {
        self.tokenizer.decode(ids, self.skip_special_tokens).map_err(|e| e.to_string())
    }
}
