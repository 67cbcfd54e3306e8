//! What crosses the C boundary: borrowed byte ranges in, owned buffers out, a panic turned into a code.

use crate::isolate::Failure;
use std::cell::RefCell;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Once;

/// Bytes owned by this crate until `rollcall_bytes_free`.
#[repr(C)]
pub struct RollcallBytes {
    data: *mut u8,
    size: usize,
}

const OK: i32 = 0;
const REFUSED: i32 = 1;
const PANICKED: i32 = 2;
const MAX_MESSAGE_BYTES: usize = 1000;

thread_local! {
    static LAST_PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Keeps a panic's message and place for the caller's status instead of printing them. Nothing else in the process
/// is Rust, so the process-wide hook is ours.
fn record_panics() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        std::panic::set_hook(Box::new(|info| {
            LAST_PANIC.with(|last| *last.borrow_mut() = info.to_string());
        }));
    });
}

/// What the panic just caught on this thread said, and where.
pub fn take_panic() -> String {
    LAST_PANIC.with(|last| last.take())
}

impl From<String> for Failure {
    fn from(message: String) -> Self {
        Failure::Refused(message)
    }
}

/// Runs `body`; its message or a panic's goes to `error`, and the code says which it was.
pub unsafe fn run(error: *mut RollcallBytes, body: impl FnOnce() -> Result<(), Failure>) -> i32 {
    record_panics();
    let result = catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|_| Err(Failure::Panicked(take_panic())));
    let (code, mut message) = match result {
        Ok(()) => return OK,
        Err(Failure::Refused(message) | Failure::Abandoned(message)) => (REFUSED, message),
        Err(Failure::Panicked(message)) => (PANICKED, message),
    };
    // Some messages quote what they do not understand, whole.
    if message.len() > MAX_MESSAGE_BYTES {
        let end = (0..=MAX_MESSAGE_BYTES).rev().find(|&at| message.is_char_boundary(at)).unwrap_or(0);
        message.truncate(end);
        message.push('…');
    }
    write_out(error, message.into_bytes());
    code
}

pub unsafe fn write_out(out: *mut RollcallBytes, bytes: Vec<u8>) {
    let bytes = bytes.into_boxed_slice();
    let size = bytes.len();
    *out = RollcallBytes { data: Box::into_raw(bytes) as *mut u8, size };
}

/// # Safety
/// `bytes` was written by a call of this interface, or is zeroed.
#[no_mangle]
pub unsafe extern "C" fn rollcall_bytes_free(bytes: *mut RollcallBytes) {
    let bytes = &mut *bytes;
    if !bytes.data.is_null() {
        drop(Box::from_raw(std::ptr::slice_from_raw_parts_mut(bytes.data, bytes.size)));
        *bytes = RollcallBytes { data: std::ptr::null_mut(), size: 0 };
    }
}

pub unsafe fn bytes<'a>(data: *const u8, size: usize) -> &'a [u8] {
    if size == 0 {
        &[]
    } else {
        std::slice::from_raw_parts(data, size)
    }
}

pub unsafe fn utf8<'a>(data: *const u8, size: usize) -> Result<&'a str, String> {
    std::str::from_utf8(bytes(data, size))
        .map_err(|e| format!("text must be UTF-8: invalid bytes at offset {}", e.valid_up_to()))
}

pub unsafe fn ids<'a>(data: *const u32, count: usize) -> &'a [u32] {
    if count == 0 {
        &[]
    } else {
        std::slice::from_raw_parts(data, count)
    }
}
