//! Hugging Face tokenizers, chat templates and Parquet files behind a C interface; `rollcall_text.h` is its contract.
//!
//! `boundary` keeps panics and Rust types on this side, `isolate` bounds what input may cost by `limits`, `stream` decodes
//! token by token, `template` renders chat
//! templates as transformers does, and `python` formats values as Python would. `table` reads Parquet files row by row as
//! JSON (`row_json`), `table_footer` keeps hostile ones out, and `table_writer` writes them.

mod boundary;
mod isolate;
mod limits;
mod loops;
mod methods;
mod python;
mod row_json;
mod stream;
mod table;
mod table_file;
mod table_footer;
mod table_interface;
mod table_writer;
mod template;

use boundary::{bytes, ids, run, utf8, write_out, RollcallBytes};
use isolate::{Bounds, Failure};
use std::sync::Arc;
use std::time::Duration;
use stream::StreamDecoder;
use template::ChatTemplate;
use tokenizers::Tokenizer;

pub struct RollcallTokenizer(Arc<Tokenizer>);
pub struct RollcallStream(StreamDecoder);
pub struct RollcallTemplate(ChatTemplate);

/// # Safety
/// `json` holds `size` bytes; `out` and `error` are writable.
#[no_mangle]
pub unsafe extern "C" fn rollcall_tokenizer_load(
    json: *const u8,
    size: usize,
    out: *mut *mut RollcallTokenizer,
    error: *mut RollcallBytes,
) -> i32 {
    run(error, || {
        let owned = bytes(json, size).to_vec();
        let tokenizer = isolate::run("reading it", limits::loading(size), move || {
            let mut tokenizer = Tokenizer::from_bytes(owned).map_err(|e| e.to_string())?;
            // A saved truncation or padding belongs to whoever exported the file; transformers resets both per call.
            tokenizer.with_truncation(None).map_err(|e| e.to_string())?;
            tokenizer.with_padding(None);
            Ok(tokenizer)
        });
        // The library unwraps some of what it finds.
        let tokenizer = tokenizer.map_err(|failure| match failure {
            Failure::Panicked(message) => Failure::Refused(format!("the tokenizers library cannot read it: {message}")),
            other => other,
        })?;
        *out = Box::into_raw(Box::new(RollcallTokenizer(Arc::new(tokenizer))));
        Ok(())
    })
}

/// # Safety
/// `tokenizer` comes from `rollcall_tokenizer_load` and is not used again.
#[no_mangle]
pub unsafe extern "C" fn rollcall_tokenizer_free(tokenizer: *mut RollcallTokenizer) {
    if !tokenizer.is_null() {
        drop(Box::from_raw(tokenizer));
    }
}

/// # Safety
/// `tokenizer` is alive; `text` holds `size` bytes; `out_ids` and `error` are writable, `out_offsets` is so or null.
#[no_mangle]
pub unsafe extern "C" fn rollcall_tokenizer_encode(
    tokenizer: *const RollcallTokenizer,
    text: *const u8,
    size: usize,
    add_special_tokens: bool,
    out_ids: *mut RollcallBytes,
    out_offsets: *mut RollcallBytes,
    error: *mut RollcallBytes,
) -> i32 {
    run(error, || {
        let tokenizer = &(*tokenizer).0;
        let text = utf8(text, size)?;
        let encoding = if out_offsets.is_null() {
            tokenizer.encode_fast(text, add_special_tokens)
        } else {
            tokenizer.encode(text, add_special_tokens)
        }
        .map_err(|e| e.to_string())?;
        write_out(out_ids, encoding.get_ids().iter().flat_map(|id| id.to_ne_bytes()).collect());
        if !out_offsets.is_null() {
            let pairs = encoding.get_offsets().iter().flat_map(|&(begin, end)| [begin as u64, end as u64]);
            write_out(out_offsets, pairs.flat_map(|offset| offset.to_ne_bytes()).collect());
        }
        Ok(())
    })
}

/// # Safety
/// `tokenizer` is alive; `token_ids` holds `count` ids; `out` and `error` are writable.
#[no_mangle]
pub unsafe extern "C" fn rollcall_tokenizer_decode(
    tokenizer: *const RollcallTokenizer,
    token_ids: *const u32,
    count: usize,
    skip_special_tokens: bool,
    out: *mut RollcallBytes,
    error: *mut RollcallBytes,
) -> i32 {
    run(error, || {
        let text = (*tokenizer).0.decode(ids(token_ids, count), skip_special_tokens).map_err(|e| e.to_string())?;
        write_out(out, text.into_bytes());
        Ok(())
    })
}

/// # Safety
/// `tokenizer` is alive.
#[no_mangle]
pub unsafe extern "C" fn rollcall_tokenizer_vocab_size(tokenizer: *const RollcallTokenizer) -> u32 {
    (*tokenizer).0.get_vocab_size(true) as u32
}

/// # Safety
/// `tokenizer` is alive; `token` holds `size` bytes; `out` is writable.
#[no_mangle]
pub unsafe extern "C" fn rollcall_tokenizer_token_to_id(
    tokenizer: *const RollcallTokenizer,
    token: *const u8,
    size: usize,
    out: *mut u32,
) -> bool {
    match utf8(token, size).ok().and_then(|token| (*tokenizer).0.token_to_id(token)) {
        Some(id) => {
            *out = id;
            true
        }
        None => false,
    }
}

/// # Safety
/// `tokenizer` is alive; `out` is writable.
#[no_mangle]
pub unsafe extern "C" fn rollcall_tokenizer_id_to_token(
    tokenizer: *const RollcallTokenizer,
    id: u32,
    out: *mut RollcallBytes,
) -> bool {
    match (*tokenizer).0.id_to_token(id) {
        Some(token) => {
            write_out(out, token.into_bytes());
            true
        }
        None => false,
    }
}

/// # Safety
/// `tokenizer` is alive during this call; the stream keeps its own reference to what it needs.
#[no_mangle]
pub unsafe extern "C" fn rollcall_stream_new(
    tokenizer: *const RollcallTokenizer,
    skip_special_tokens: bool,
) -> *mut RollcallStream {
    let decoder = StreamDecoder::new(Arc::clone(&(*tokenizer).0), skip_special_tokens);
    Box::into_raw(Box::new(RollcallStream(decoder)))
}

/// # Safety
/// `stream` comes from `rollcall_stream_new` and is not used again.
#[no_mangle]
pub unsafe extern "C" fn rollcall_stream_free(stream: *mut RollcallStream) {
    if !stream.is_null() {
        drop(Box::from_raw(stream));
    }
}

/// # Safety
/// `stream` is alive and used by one thread at a time; `out` and `error` are writable.
#[no_mangle]
pub unsafe extern "C" fn rollcall_stream_step(
    stream: *mut RollcallStream,
    id: u32,
    out: *mut RollcallBytes,
    error: *mut RollcallBytes,
) -> i32 {
    run(error, || {
        write_out(out, (*stream).0.step(id)?.into_bytes());
        Ok(())
    })
}

/// # Safety
/// `stream` is alive and used by one thread at a time; `out` and `error` are writable.
#[no_mangle]
pub unsafe extern "C" fn rollcall_stream_flush(
    stream: *mut RollcallStream,
    out: *mut RollcallBytes,
    error: *mut RollcallBytes,
) -> i32 {
    run(error, || {
        write_out(out, (*stream).0.flush()?.into_bytes());
        Ok(())
    })
}

/// # Safety
/// `source` holds `size` bytes; `out` and `error` are writable.
#[no_mangle]
pub unsafe extern "C" fn rollcall_template_compile(
    source: *const u8,
    size: usize,
    out: *mut *mut RollcallTemplate,
    error: *mut RollcallBytes,
) -> i32 {
    run(error, || {
        let template = ChatTemplate::compile(utf8(source, size)?)?;
        *out = Box::into_raw(Box::new(RollcallTemplate(template)));
        Ok(())
    })
}

/// # Safety
/// `template` comes from `rollcall_template_compile` and is not used again.
#[no_mangle]
pub unsafe extern "C" fn rollcall_template_free(template: *mut RollcallTemplate) {
    if !template.is_null() {
        drop(Box::from_raw(template));
    }
}

/// # Safety
/// `template` is alive; `variables` holds `size` bytes; `out_text`, `out_spans` and `error` are writable.
#[no_mangle]
pub unsafe extern "C" fn rollcall_template_render(
    template: *const RollcallTemplate,
    variables: *const u8,
    size: usize,
    now_unix_seconds: i64,
    out_text: *mut RollcallBytes,
    out_spans: *mut RollcallBytes,
    error: *mut RollcallBytes,
) -> i32 {
    run(error, || {
        let (text, spans) = (*template).0.render(bytes(variables, size), now_unix_seconds)?;
        let numbers = spans.iter().flat_map(|&(begin, end)| [begin as u64, end as u64]);
        write_out(out_spans, numbers.flat_map(|number| number.to_ne_bytes()).collect());
        write_out(out_text, text.into_bytes());
        Ok(())
    })
}

/// Works without end until it is abandoned.
///
/// # Safety
/// `error` is writable.
#[no_mangle]
pub unsafe extern "C" fn rollcall_text_endless_for_test(milliseconds: u64, error: *mut RollcallBytes) -> i32 {
    run(error, || {
        let time = Duration::from_millis(milliseconds);
        isolate::run("the test", Bounds { stack: 1 << 20, memory: 1 << 20, time }, || -> Result<(), String> {
            loop {
                std::hint::black_box(vec![0u8; 1 << 13]);
            }
        })
    })
}

/// Panics on purpose, so that a test can see the boundary hold.
///
/// # Safety
/// `error` is writable.
#[no_mangle]
pub unsafe extern "C" fn rollcall_text_panic_for_test(error: *mut RollcallBytes) -> i32 {
    run(error, || panic!("a deliberate panic"))
}
