//! Python's `for` raises where its subject is None; minijinja's runs no time. Templates that forget a guard thus fail in
//! transformers and would render here, so every loop's subject goes through a check.

use minijinja::{Error, ErrorKind, Value};

pub const CHECK: &str = "rollcall_iterable";

/// The check that `check_loop_subjects` calls: the value itself, or an error where it is none.
pub fn iterable(value: Value) -> Result<Value, Error> {
    if value.is_none() {
        return Err(Error::new(ErrorKind::InvalidOperation, "'NoneType' object is not iterable"));
    }
    Ok(value)
}

/// `{% for x in SUBJECT if … %}` becomes `{% for x in rollcall_iterable(SUBJECT) if … %}`. What does not look like a loop
/// stays as it is: minijinja reports it.
pub fn check_loop_subjects(source: &str) -> String {
    let mut out = String::with_capacity(source.len() + 64);
    let mut rest = source;
    while let Some(open) = rest.find('{') {
        let (before, tag) = rest.split_at(open);
        out.push_str(before);
        // Comments and printed expressions may hold what looks like a tag.
        let close = match tag.as_bytes().get(1) {
            Some(b'%') => "%}",
            Some(b'{') => "}}",
            Some(b'#') => "#}",
            _ => {
                out.push('{');
                rest = &tag[1..];
                continue;
            }
        };
        let Some(end) = find_close(tag, close) else {
            out.push_str(tag);
            return out;
        };
        match subject_of_loop(&tag[..end]).filter(|_| close == "%}") {
            Some((begin, stop)) => {
                out.push_str(&tag[..begin]);
                out.push_str(CHECK);
                out.push('(');
                out.push_str(&tag[begin..stop]);
                out.push(')');
                out.push_str(&tag[stop..end]);
            }
            None => out.push_str(&tag[..end]),
        }
        out.push_str(close);
        rest = &tag[end + 2..];
    }
    out.push_str(rest);
    out
}

/// Where `close` begins, behind the two characters that open the tag and outside of string literals (a comment has none).
fn find_close(tag: &str, close: &str) -> Option<usize> {
    if close == "#}" {
        return tag[2..].find(close).map(|at| at + 2);
    }
    let mut quote = None;
    let mut skip = false;
    for (at, c) in tag.char_indices().skip(2) {
        if std::mem::take(&mut skip) {
            continue;
        }
        match quote {
            Some(_) if c == '\\' => skip = true,
            Some(q) if c == q => quote = None,
            Some(_) => {}
            None if c == '"' || c == '\'' => quote = Some(c),
            None if tag[at..].starts_with(close) => return Some(at),
            None => {}
        }
    }
    None
}

/// The byte range of the subject in `{% for x in SUBJECT…`, up to `if`, `recursive`, whitespace control or the end.
fn subject_of_loop(tag: &str) -> Option<(usize, usize)> {
    let body = tag[2..].trim_start_matches(['-', '+']).trim_start();
    let after_for = body.strip_prefix("for")?.strip_prefix(char::is_whitespace)?;
    let begin = word_at_depth_zero(tag, tag.len() - after_for.len(), &["in"])?;
    let begin = begin + 2;
    let stop = word_at_depth_zero(tag, begin, &["if", "recursive"]).unwrap_or(tag.len());
    let subject = tag[begin..stop].trim_end().trim_end_matches(['-', '+']).trim_end();
    let begin = begin + (subject.len() - subject.trim_start().len());
    let stop = begin + subject.trim_start().len();
    (stop > begin).then_some((begin, stop))
}

/// Where one of `words` stands alone, outside of brackets and strings, from `from` on.
fn word_at_depth_zero(text: &str, from: usize, words: &[&str]) -> Option<usize> {
    let mut depth = 0i32;
    let mut quote = None;
    let mut skip = false;
    let mut previous = ' ';
    for (offset, c) in text[from..].char_indices() {
        let at = from + offset;
        if std::mem::take(&mut skip) {
            continue;
        }
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        match quote {
            Some(_) if c == '\\' => skip = true,
            Some(q) if c == q => quote = None,
            Some(_) => {}
            None => match c {
                '"' | '\'' => quote = Some(c),
                '(' | '[' | '{' => depth += 1,
                ')' | ']' | '}' => depth -= 1,
                _ if depth == 0 && !is_word(previous) && previous != '.' => {
                    let whole = |word: &&&str| {
                        text[at..].strip_prefix(**word).is_some_and(|rest| !rest.starts_with(is_word))
                    };
                    if words.iter().any(|word| whole(&word)) {
                        return Some(at);
                    }
                }
                _ => {}
            },
        }
        previous = c;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::check_loop_subjects;

    #[test]
    fn wraps_subjects_and_nothing_else() {
        for (source, expected) in [
            ("{% for m in messages %}", "{% for m in rollcall_iterable(messages) %}"),
            ("{%- for k, v in d.items() -%}", "{%- for k, v in rollcall_iterable(d.items()) -%}"),
            ("{% for m in a + b if m.x in c %}", "{% for m in rollcall_iterable(a + b) if m.x in c %}"),
            ("{% for x in t recursive %}", "{% for x in rollcall_iterable(t) recursive %}"),
            ("{% for x in f('a if %} b') %}", "{% for x in rollcall_iterable(f('a if %} b')) %}"),
            ("{% for x in (a if b else c) %}", "{% for x in rollcall_iterable((a if b else c)) %}"),
            ("{% if x in y %}{{ 'for m in n' }}", "{% if x in y %}{{ 'for m in n' }}"),
            ("{# {% for m in n %} #}{ x", "{# {% for m in n %} #}{ x"),
            ("{%}{% for m in n %}", "{%}{% for m in n %}"),
            ("{#}{% for m in n %}#}", "{#}{% for m in n %}#}"),
            ("{% for index in indices %}", "{% for index in rollcall_iterable(indices) %}"),
        ] {
            assert_eq!(check_loop_subjects(source), expected);
        }
    }
}
