//! Where an answer ends, as its head says it.

use http::header::{self, HeaderMap};

/// Says whether an answer's end can be read in two ways: it may have a length or be chunked, not both, and no other
/// coding may lie over its bytes (RFC 9112, 6.3: "ought to be handled as an error").
pub fn is_ambiguous(answer: &HeaderMap) -> bool {
    let mut codings = answer.get_all(header::TRANSFER_ENCODING).iter();
    let Some(coding) = codings.next() else { return false };
    let is_plain = coding.as_bytes().eq_ignore_ascii_case(b"chunked") && codings.next().is_none();
    !is_plain || answer.contains_key(header::CONTENT_LENGTH)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn one_chunked_or_a_length_is_plain() {
        let cases: [(&[(&str, &str)], bool); 8] = [
            (&[], false),
            (&[("content-length", "2")], false),
            (&[("transfer-encoding", "chunked")], false),
            (&[("transfer-encoding", "Chunked")], false),
            (&[("transfer-encoding", "chunked"), ("content-length", "2")], true),
            (&[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")], true),
            (&[("transfer-encoding", "gzip, chunked")], true),
            (&[("transfer-encoding", "")], true),
        ];
        for (fields, expected) in cases {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.append(*name, HeaderValue::from_static(value));
            }
            assert_eq!(is_ambiguous(&headers), expected, "{fields:?}");
        }
    }
}
