//! Work on input from strangers, kept from taking the process with it.
//!
//! Neither a template nor a tokenizer.json says beforehand what it will cost: one expression can double a string, and
//! Rust aborts where memory ends or a stack overflows. So such work runs on a thread of its own with a stack sized for
//! the deepest nesting its input can reach, and every allocation of that thread counts against a limit. Work over its
//! limit, or later than its deadline, is abandoned: the caller gets an error, and the thread sleeps for good with what
//! it holds. Nothing unwinds through an allocation.

use crate::boundary;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::ptr;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// What a piece of work may use.
#[derive(Clone, Copy)]
pub struct Bounds {
    /// Bytes of stack: address space, of which only what is used becomes memory.
    pub stack: usize,
    /// Bytes allocated and not freed.
    pub memory: usize,
    pub time: Duration,
}

/// Why there is no result.
#[derive(Debug)]
pub enum Failure {
    Refused(String),
    /// Abandoned: to try again would leave another thread behind.
    Abandoned(String),
    Panicked(String),
}

enum Progress<T> {
    Working,
    OutOfMemory,
    OutOfTime,
    Done(Result<T, Failure>),
}

struct Shared<T> {
    progress: Mutex<Progress<T>>,
    changed: Condvar,
}

/// What the allocator calls on a thread that is over its limit, or was given up by its caller.
trait Abandon {
    fn is_given_up(&self) -> bool;
    fn report_out_of_memory(&self);
}

impl<T> Abandon for Shared<T> {
    fn is_given_up(&self) -> bool {
        matches!(*self.progress.lock().unwrap_or_else(|e| e.into_inner()), Progress::OutOfTime)
    }

    fn report_out_of_memory(&self) {
        *self.progress.lock().unwrap_or_else(|e| e.into_inner()) = Progress::OutOfMemory;
        self.changed.notify_one();
    }
}

thread_local! {
    /// Bytes that this thread may still allocate; negative numbers are normal where nothing is counted.
    static LEFT: Cell<isize> = const { Cell::new(isize::MAX) };
    static COUNTED: Cell<bool> = const { Cell::new(false) };
    static WORK: Cell<Option<*const dyn Abandon>> = const { Cell::new(None) };
}

/// The system's allocator, which counts on the threads of `run`.
struct CountingAllocator;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Allocations of at least this size also ask whether the caller still waits.
const LARGE_BYTES: usize = 4096;

fn charge(bytes: usize) {
    if !COUNTED.get() {
        return;
    }
    let left = LEFT.get() - bytes as isize;
    LEFT.set(left);
    if left >= 0 && bytes < LARGE_BYTES {
        return;
    }
    let Some(work) = WORK.get() else { return };
    // SAFETY: the thread holds its share of the work until it has cleared WORK.
    let work = unsafe { &*work };
    if left < 0 {
        work.report_out_of_memory();
    } else if !work.is_given_up() {
        return;
    }
    loop {
        // SAFETY: no arguments; returns after a signal handler ran.
        unsafe { libc::pause() };
    }
}

fn refund(bytes: usize) {
    if COUNTED.get() {
        LEFT.set(LEFT.get() + bytes as isize);
    }
}

// SAFETY: every call goes to the system's allocator with the same arguments.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        charge(layout.size());
        System.alloc(layout)
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        charge(layout.size());
        System.alloc_zeroed(layout)
    }

    unsafe fn dealloc(&self, data: *mut u8, layout: Layout) {
        refund(layout.size());
        System.dealloc(data, layout)
    }

    unsafe fn realloc(&self, data: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Both exist while the system copies.
        charge(size);
        let moved = System.realloc(data, layout, size);
        refund(if ptr::eq(moved, ptr::null()) { size } else { layout.size() });
        moved
    }
}

/// Runs `work` on a thread of its own within `bounds`. `what` begins the messages about them.
pub fn run<T, F>(what: &str, bounds: Bounds, work: F) -> Result<T, Failure>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, String> + Send + 'static,
{
    let shared = Arc::new(Shared { progress: Mutex::new(Progress::Working), changed: Condvar::new() });
    let theirs = Arc::clone(&shared);
    let thread = std::thread::Builder::new()
        .name("text".into())
        .stack_size(bounds.stack)
        .spawn(move || run_counted(theirs, bounds.memory, work))
        .map_err(|e| Failure::Refused(format!("{what} needs a thread: {e}")))?;
    let deadline = Instant::now() + bounds.time;
    let mut progress = shared.progress.lock().unwrap_or_else(|e| e.into_inner());
    loop {
        match std::mem::replace(&mut *progress, Progress::Working) {
            Progress::Done(result) => {
                drop(progress);
                // The thread is done but for its end.
                let _ = thread.join();
                return result;
            }
            Progress::OutOfMemory => {
                let mebibytes = bounds.memory >> 20;
                return Err(Failure::Abandoned(format!("{what} takes more than {mebibytes} MiB of memory")));
            }
            Progress::Working | Progress::OutOfTime => {}
        }
        let now = Instant::now();
        if now >= deadline {
            *progress = Progress::OutOfTime;
            return Err(Failure::Abandoned(format!("{what} takes longer than {} ms", bounds.time.as_millis())));
        }
        progress = match shared.changed.wait_timeout(progress, deadline - now) {
            Ok((guard, _)) => guard,
            Err(poisoned) => poisoned.into_inner().0,
        };
    }
}

fn run_counted<T, F>(shared: Arc<Shared<T>>, memory: usize, work: F)
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, String> + Send + 'static,
{
    let held: *const Shared<T> = Arc::as_ptr(&shared);
    WORK.set(Some(held as *const dyn Abandon));
    LEFT.set(memory as isize);
    COUNTED.set(true);
    let result = match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(Failure::Refused),
        Err(_) => Err(Failure::Panicked(boundary::take_panic())),
    };
    COUNTED.set(false);
    WORK.set(None);
    let mut progress = shared.progress.lock().unwrap_or_else(|e| e.into_inner());
    if matches!(*progress, Progress::OutOfTime) {
        drop(progress);
        drop(result);
        return;
    }
    *progress = Progress::Done(result);
    drop(progress);
    shared.changed.notify_one();
}
