//! A second reading of JSON objects, plainer than that of `exports`: members cut out of text that is known to be valid.

/// Returns the members of a valid object in their order, as written: key and value.
pub(super) fn members(text: &str) -> Vec<(&str, &str)> {
    let inner = text.trim_matches([' ', '\t', '\r', '\n']);
    let inner = inner.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).expect("an object");
    let mut members = Vec::new();
    let mut rest = inner.trim_matches(is_space);
    while !rest.is_empty() {
        let (key, after) = rest.split_at(end_of(rest));
        let after = after.trim_start_matches(is_space).strip_prefix(':').expect("a colon");
        let after = after.trim_start_matches(is_space);
        let (value, after) = after.split_at(end_of(after));
        members.push((key, value.trim_end_matches(is_space)));
        let after = after.trim_start_matches(is_space);
        rest = after.strip_prefix(',').unwrap_or(after).trim_start_matches(is_space);
    }
    members
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

/// Finds the end of the value that a text begins with.
fn end_of(text: &str) -> usize {
    let (mut depth, mut quoted, mut escaped) = (0, false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => quoted = !quoted,
            _ if quoted => continue,
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth -= 1,
            b',' | b':' if depth == 0 => return at,
            _ => continue,
        }
        if depth == 0 && !quoted && !escaped {
            return at + 1;
        }
    }
    text.len()
}

/// Decodes a key or a text; `None` for another value and for lone surrogates.
pub(super) fn decoded(raw: &str) -> Option<String> {
    serde_json::from_str(raw).ok()
}
