//! Methods of Python's `str` and `list` that chat templates may call and minijinja-contrib's pycompat lacks.

use minijinja::value::{from_args, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};

/// The method of `value`, from here, else from pycompat.
pub fn call(state: &State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    let found = match value.as_str() {
        Some(text) => of_string(text, method, args)?,
        None if value.kind() == ValueKind::Seq => of_list(value, method, args)?,
        None => None,
    };
    match found {
        Some(result) => Ok(result),
        None => minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args),
    }
}

fn of_string(text: &str, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    Ok(Some(match method {
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            text.strip_prefix(prefix).unwrap_or(text).into()
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            text.strip_suffix(suffix).unwrap_or(text).into()
        }
        "partition" => {
            let (separator,): (&str,) = from_args(args)?;
            check_separator(separator)?;
            parts(text.split_once(separator), separator, [text, "", ""])
        }
        "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            check_separator(separator)?;
            parts(text.rsplit_once(separator), separator, ["", "", text])
        }
        "rsplit" => {
            let (separator, most): (Option<&str>, Option<i64>) = from_args(args)?;
            rsplit(text, separator, most)?
        }
        "ljust" | "rjust" | "center" => {
            let (width, fill): (usize, Option<&str>) = from_args(args)?;
            pad(text, method, width, fill.unwrap_or(" "))?
        }
        "zfill" => {
            let (width,): (usize,) = from_args(args)?;
            let (sign, digits) = text.split_at(usize::from(text.starts_with(['+', '-'])));
            let missing = width.saturating_sub(text.chars().count());
            format!("{sign}{}{digits}", "0".repeat(missing)).into()
        }
        "swapcase" => text.chars().map(swapped).collect::<String>().into(),
        "casefold" => text.to_lowercase().replace('ß', "ss").into(),
        "index" | "rindex" => {
            let (part,): (&str,) = from_args(args)?;
            let at = if method == "index" { text.find(part) } else { text.rfind(part) };
            let at = at.ok_or_else(|| Error::new(ErrorKind::InvalidOperation, "substring not found"))?;
            text[..at].chars().count().into()
        }
        _ => return Ok(None),
    }))
}

fn of_list(list: &Value, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    if method != "index" {
        return Ok(None);
    }
    let (wanted,): (Value,) = from_args(args)?;
    match list.try_iter()?.position(|item| item == wanted) {
        Some(at) => Ok(Some(at.into())),
        None => Err(Error::new(ErrorKind::InvalidOperation, format!("{wanted} is not in list"))),
    }
}

fn check_separator(separator: &str) -> Result<(), Error> {
    match separator {
        "" => Err(Error::new(ErrorKind::InvalidOperation, "empty separator")),
        _ => Ok(()),
    }
}

fn parts(found: Option<(&str, &str)>, separator: &str, otherwise: [&str; 3]) -> Value {
    list(match found {
        Some((before, after)) => vec![before, separator, after],
        None => otherwise.to_vec(),
    })
}

fn list(pieces: Vec<&str>) -> Value {
    Value::from(pieces.into_iter().map(Value::from).collect::<Vec<_>>())
}

fn rsplit(text: &str, separator: Option<&str>, most: Option<i64>) -> Result<Value, Error> {
    let most = most.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX - 1);
    let mut pieces: Vec<&str> = Vec::new();
    match separator {
        Some(separator) => {
            check_separator(separator)?;
            pieces.extend(text.rsplitn(most + 1, separator));
        }
        None => {
            let mut rest = text.trim_end();
            while !rest.is_empty() && pieces.len() < most {
                let begin = rest.char_indices().rev().find(|(_, c)| c.is_whitespace());
                let begin = begin.map_or(0, |(at, c)| at + c.len_utf8());
                pieces.push(&rest[begin..]);
                rest = rest[..begin].trim_end();
            }
            if !rest.is_empty() {
                pieces.push(rest);
            }
        }
    }
    pieces.reverse();
    Ok(list(pieces))
}

fn pad(text: &str, method: &str, width: usize, fill: &str) -> Result<Value, Error> {
    if fill.chars().count() != 1 {
        return Err(Error::new(ErrorKind::InvalidOperation, "the fill character must be exactly one character long"));
    }
    let missing = width.saturating_sub(text.chars().count());
    // As CPython: of an odd number, centring puts the larger half left where the width is odd.
    let left = match method {
        "ljust" => 0,
        "rjust" => missing,
        _ => missing / 2 + (missing & width & 1),
    };
    Ok(format!("{}{text}{}", fill.repeat(left), fill.repeat(missing - left)).into())
}

fn swapped(c: char) -> char {
    if c.is_uppercase() {
        c.to_lowercase().next().unwrap_or(c)
    } else {
        c.to_uppercase().next().unwrap_or(c)
    }
}
