//! Chat templates in the environment that transformers gives them: Jinja with trimmed blocks, loop controls, Python's
//! string and dict methods, `raise_exception`, `strftime_now`, `tojson` as `json.dumps` spaces it, and
//! `{% generation %}` blocks whose place in the text is reported.

use crate::isolate::{self, Failure};
use crate::limits::{self, BoundedText};
use crate::loops;
use crate::methods;
use crate::python::{self, JsonStyle};
use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Value};
use std::cell::Cell;
use std::ffi::CString;
use std::sync::{Arc, OnceLock};

const NAME: &str = "chat_template";
/// Noncharacters: no text should hold them, and `render` notices where one does.
const SPAN_BEGIN: char = '\u{FDD0}';
const SPAN_END: char = '\u{FDD1}';
const SPAN_FILTER: &str = "rollcall_generation_span";

thread_local! {
    /// Of the render under way on this thread: the clock, and the generation blocks met so far.
    static NOW: Cell<i64> = const { Cell::new(0) };
    static SPANS: Cell<usize> = const { Cell::new(0) };
}

pub struct ChatTemplate {
    environment: Arc<Environment<'static>>,
    /// What the first rendering that had to be abandoned ended with; then there is no other.
    abandoned: OnceLock<String>,
}

/// Byte ranges `[begin, end)` of the rendered text.
pub type Spans = Vec<(usize, usize)>;

impl ChatTemplate {
    pub fn compile(source: &str) -> Result<Self, Failure> {
        if source.len() > limits::MAX_SOURCE_BYTES {
            let message = format!("it has {} bytes, at most {} are read", source.len(), limits::MAX_SOURCE_BYTES);
            return Err(Failure::Refused(message));
        }
        let owned = source.to_string();
        let environment = isolate::run("compiling", limits::compiling(source.len()), move || build(&owned))?;
        Ok(Self { environment: Arc::new(environment), abandoned: OnceLock::new() })
    }

    /// `variables`: a JSON object.
    pub fn render(&self, variables: &[u8], now_unix_seconds: i64) -> Result<(String, Spans), Failure> {
        if let Some(message) = self.abandoned.get() {
            return Err(Failure::Refused(message.clone()));
        }
        let environment = Arc::clone(&self.environment);
        let owned = variables.to_vec();
        let work = move || render(&environment, &owned, now_unix_seconds);
        let result = isolate::run("rendering", limits::rendering(variables.len()), work);
        if let Err(Failure::Abandoned(message)) = &result {
            let _ = self.abandoned.set(message.clone());
        }
        result
    }
}

fn build(source: &str) -> Result<Environment<'static>, String> {
    let mut environment = Environment::new();
    environment.set_fuel(Some(limits::MAX_INSTRUCTIONS));
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_unknown_method_callback(methods::call);
    environment.set_formatter(|out, _state, value| {
        out.write_str(&python_str(value)?).map_err(|_| Error::new(ErrorKind::WriteFailure, "cannot write"))
    });
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", strftime_now);
    environment.add_function(loops::CHECK, loops::iterable);
    environment.add_filter("tojson", to_json);
    environment.add_filter("string", |value: &Value| python_str(value));
    environment.add_filter("trim", |value: &Value, characters: Option<String>| -> Result<String, Error> {
        let text = python_str(value)?;
        Ok(match characters {
            Some(set) => text.trim_matches(|c| set.contains(c)).to_string(),
            None => text.trim().to_string(),
        })
    });
    environment.add_filter(SPAN_FILTER, |text: String| {
        SPANS.set(SPANS.get() + 1);
        format!("{SPAN_BEGIN}{text}{SPAN_END}")
    });
    environment
        .add_template_owned(NAME, loops::check_loop_subjects(&generation_blocks_to_filters(source)))
        .map_err(|e| describe(&e))?;
    Ok(environment)
}

fn render(environment: &Environment, variables: &[u8], now_unix_seconds: i64) -> Result<(String, Spans), String> {
    let variables: serde_json::Value =
        serde_json::from_slice(variables).map_err(|e| format!("variables are not JSON: {e}"))?;
    NOW.set(now_unix_seconds);
    SPANS.set(0);
    let template = environment.get_template(NAME).map_err(|e| describe(&e))?;
    let mut text = BoundedText::default();
    template.render_captured_to(Value::from_serialize(&variables), &mut text).map_err(|e| describe(&e))?;
    take_spans(text.into_string()?, SPANS.get())
}

/// The message of an error and of those below it, with the template's line.
fn describe(error: &Error) -> String {
    if error.kind() == ErrorKind::OutOfFuel {
        return format!("rendering takes more than {} instructions", limits::MAX_INSTRUCTIONS);
    }
    let mut message = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        message.push_str(": ");
        message.push_str(&inner.to_string());
        cause = inner.source();
    }
    message
}

/// minijinja has no custom tags. `{% generation %}` prints its body as `{% filter %}` does, so only the keyword is
/// replaced and the whitespace control around it stays as written.
fn generation_blocks_to_filters(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at + 2);
        out.push_str(before);
        let body = tag.trim_start_matches(['-', '+']).trim_start();
        let lead = tag.len() - body.len();
        let found = [("generation", true), ("endgeneration", false)].into_iter().find_map(|(word, opens)| {
            let after = body.strip_prefix(word)?;
            after.trim_start().trim_start_matches(['-', '+']).starts_with("%}").then_some((after, opens))
        });
        match found {
            Some((after, opens)) => {
                out.push_str(&tag[..lead]);
                if opens {
                    out.push_str("filter ");
                    out.push_str(SPAN_FILTER);
                } else {
                    out.push_str("endfilter");
                }
                rest = after;
            }
            None => rest = tag,
        }
    }
    out.push_str(rest);
    out
}

fn take_spans(marked: String, expected: usize) -> Result<(String, Spans), String> {
    if expected == 0 {
        return Ok((marked, Vec::new()));
    }
    let mut text = String::with_capacity(marked.len());
    let mut begins = Vec::new();
    let mut spans = Vec::new();
    for c in marked.chars() {
        match c {
            SPAN_BEGIN => begins.push(text.len()),
            SPAN_END => match begins.pop() {
                Some(begin) => spans.push((begin, text.len())),
                None => return Err("a message holds the noncharacter U+FDD1, which marks generation blocks".into()),
            },
            c => text.push(c),
        }
    }
    if !begins.is_empty() || spans.len() > expected {
        return Err("a message holds the noncharacter U+FDD0, which marks generation blocks".into());
    }
    Ok((text, spans))
}

fn raise_exception(message: String) -> Result<String, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

/// Local time, as Python's `datetime.now().strftime`.
fn strftime_now(format: String) -> Result<String, Error> {
    let failed = || Error::new(ErrorKind::InvalidOperation, format!("strftime_now cannot format {format:?}"));
    if format.is_empty() {
        return Ok(String::new());
    }
    let c_format = CString::new(format.as_str()).map_err(|_| failed())?;
    let seconds: libc::time_t = NOW.get();
    let mut buffer = vec![0u8; 256 + 8 * format.len()];
    // SAFETY: every pointer is to a live local; strftime writes at most buffer.len() bytes.
    let written = unsafe {
        let mut local: libc::tm = std::mem::zeroed();
        if libc::localtime_r(&seconds, &mut local).is_null() {
            return Err(failed());
        }
        libc::strftime(buffer.as_mut_ptr().cast(), buffer.len(), c_format.as_ptr(), &local)
    };
    buffer.truncate(written);
    String::from_utf8(buffer).map_err(|_| failed())
}

fn to_json(value: &Value, kwargs: Kwargs) -> Result<Value, Error> {
    if value.is_undefined() {
        return Err(Error::new(ErrorKind::InvalidOperation, "tojson: the value is undefined"));
    }
    let indent: Option<usize> = kwargs.get("indent")?;
    let separators: Option<Vec<String>> = kwargs.get("separators")?;
    let mut style = JsonStyle {
        ensure_ascii: kwargs.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        indent,
        item_separator: if indent.is_some() { "," } else { ", " }.to_string(),
        key_separator: ": ".to_string(),
        sort_keys: kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
    };
    kwargs.assert_all_used()?;
    if let Some(separators) = separators {
        let [item, key] = <[String; 2]>::try_from(separators)
            .map_err(|_| Error::new(ErrorKind::InvalidOperation, "tojson: separators must be a pair"))?;
        style.item_separator = item;
        style.key_separator = key;
    }
    Ok(Value::from_safe_string(python::json_dumps(&plain_json(value)?, &style)))
}

fn python_str(value: &Value) -> Result<String, Error> {
    match value.kind() {
        ValueKind::Undefined => Ok(String::new()),
        ValueKind::String => Ok(value.to_string()),
        _ => Ok(python::display(&plain_json(value)?)),
    }
}

fn plain_json(value: &Value) -> Result<serde_json::Value, Error> {
    check_depth(value, 0)?;
    serde_json::to_value(value)
        .map_err(|e| Error::new(ErrorKind::BadSerialization, format!("not representable as JSON: {e}")))
}

/// Neither serde nor the printers below bound how deep they go.
fn check_depth(value: &Value, depth: usize) -> Result<(), Error> {
    if !matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable | ValueKind::Map) {
        return Ok(());
    }
    if depth == limits::MAX_DEPTH {
        let message = format!("a value to print is nested deeper than {} levels", limits::MAX_DEPTH);
        return Err(Error::new(ErrorKind::InvalidOperation, message));
    }
    let is_map = value.kind() == ValueKind::Map;
    for item in value.try_iter()? {
        match is_map {
            true => check_depth(&value.get_item(&item)?, depth + 1)?,
            false => check_depth(&item, depth + 1)?,
        }
    }
    Ok(())
}
