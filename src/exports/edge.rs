//! Whether an answer was made by Cloudflare's edge and not by the Worker.
//!
//! Edge errors name their code in an HTML or plain-text page ("Error 1101", "error code: 1015") or in a JSON
//! object's numeric `error_code`; the page's markup is not a contract, so any text between the word and the code is
//! bridged that is markup or punctuation.

use crate::exports::object::Object;
use crate::limits;

/// Longest stretch of markup between "error" and the code, bytes.
const GAP: usize = 256;

/// Codes that may come after the Worker has acted: it threw an exception (1101) or ran out of CPU time (1102).
pub(super) fn may_have_acted(code: u16) -> bool {
    matches!(code, 1101 | 1102)
}

/// Returns the edge's error code, if the answer is the edge's; `object` is the body if that is a JSON object.
///
/// Where a page names several, one that [`may_have_acted`] goes first.
pub(super) fn error_code(body: &[u8], object: Option<&Object<'_>>) -> Option<u16> {
    let Some(object) = object else { return page_code(&body[..body.len().min(limits::EDGE_PAGE)]) };
    let codes = object.fields.iter().filter(|field| field.key == "error_code");
    first_or_acted(codes.filter_map(|field| edge_code(field.value.trim_matches('"').as_bytes())))
}

fn page_code(page: &[u8]) -> Option<u16> {
    const WORD: &[u8] = b"error";
    let words = page.windows(WORD.len()).enumerate().filter(|(_, window)| window.eq_ignore_ascii_case(WORD));
    let gaps = words.map(|(at, _)| &page[at + WORD.len()..]);
    first_or_acted(gaps.filter_map(|rest| code_after(&rest[..rest.len().min(GAP)])))
}

fn first_or_acted(mut codes: impl Iterator<Item = u16>) -> Option<u16> {
    let first = codes.next()?;
    if may_have_acted(first) { Some(first) } else { codes.find(|code| may_have_acted(*code)).or(Some(first)) }
}

fn code_after(mut rest: &[u8]) -> Option<u16> {
    const CODE: &[u8] = b"code";
    loop {
        rest = match rest {
            [b'<', ..] => &rest[rest.iter().position(|byte| *byte == b'>')? + 1..],
            [digit, ..] if digit.is_ascii_digit() => {
                let end = rest.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(rest.len());
                return edge_code(&rest[..end]);
            }
            [byte, tail @ ..] if byte.is_ascii_whitespace() || b":-_\"'>#=".contains(byte) => tail,
            _ if rest.get(..CODE.len()).is_some_and(|word| word.eq_ignore_ascii_case(CODE)) => &rest[CODE.len()..],
            _ => return None,
        }
    }
}

/// Reads a code that only the edge gives: 1xxx, or 520 to 530.
fn edge_code(digits: &[u8]) -> Option<u16> {
    let code = std::str::from_utf8(digits).ok()?.parse().ok()?;
    matches!(code, 1000..=1999 | 520..=530).then_some(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(body: &str) -> Option<u16> {
        error_code(body.as_bytes(), Object::read(body.as_bytes()).ok().as_ref())
    }

    #[test]
    fn edge_errors_in_every_form() {
        let cases = [
            ("error code: 1015", Some(1015)),
            ("error code: 1101\n", Some(1101)),
            ("ERROR CODE 1102", Some(1102)),
            ("<title>Error 1101</title>", Some(1101)),
            (
                "<h1><span class=\"cf-error-type\">Error</span>\n <span class=\"cf-error-code\">1027</span></h1>",
                Some(1027),
            ),
            ("<h1><span data-translate=\"error\">Error</span>\n      <span>1101</span></h1>", Some(1101)),
            ("<span class=\"cf-error-code\">1102</span>", Some(1102)),
            ("<title>api.example.com | 522: Connection timed out</title> Error code 522", Some(522)),
            ("<p>Error 1015</p> <!-- later --> <p>Error 1101</p>", Some(1101)),
            (r#"{"title":"Error 1015: rate limited","error_code":1015,"status":429}"#, Some(1015)),
            (r#"{"error_code":"1101"}"#, Some(1101)),
            (r#"{"error_code":1015,"error_code":1101}"#, Some(1101)),
            (r#"{"error_code": 522}"#, Some(522)),
            // The Worker's own words.
            (r#"{"error":"Error 1101"}"#, None),
            (r#"{"error_code":7}"#, None),
            (r#"{"error_code":503}"#, None),
            (r#"{"error_code":null}"#, None),
            (r#"{"error":"overloaded"}"#, None),
            ("", None),
            ("error", None),
            ("<error", None),
            ("Error 404", None),
            ("Error 11015", None),
            ("Error in line 1101", None),
            ("order 1101", None),
        ];
        for (body, expected) in cases {
            assert_eq!(code(body), expected, "{body}");
        }
    }

    #[test]
    fn a_hostile_page_is_read_in_bounded_steps() {
        let pages =
            ["error".repeat(200_000), "error<".repeat(200_000), "error ".repeat(200_000), "<".repeat(1_000_000)];
        for page in pages {
            assert_eq!(code(&page), None);
        }
    }
}
