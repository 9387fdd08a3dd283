//! Where an answer ends, as its head says it.

use http::header::{self, HeaderMap, HeaderValue};
use http::{Response, StatusCode};

/// Says that an answer's end can be read in two ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ambiguous;

/// Sees to it that an answer's end can be read in one way only, also where hyper does not look: it gives a length to no
/// answer that has no body, but the next one who reads `Content-Length` may.
///
/// # Errors
/// [`Ambiguous`]: it may have a length or be chunked, not both, no other coding may lie over its bytes, and there is one
/// length (RFC 9112, 6.3).
pub fn settle<B>(answer: &mut Response<B>) -> Result<(), Ambiguous> {
    let status = answer.status();
    let headers = answer.headers_mut();
    let is_coded = headers.contains_key(header::TRANSFER_ENCODING);
    if is_coded && !is_chunked_once(headers) {
        return Err(Ambiguous);
    }
    let Some(length) = headers.get(header::CONTENT_LENGTH) else { return Ok(()) };
    if is_coded {
        return Err(Ambiguous);
    }
    if status.is_informational() || status == StatusCode::NO_CONTENT {
        // They have no body, and must not speak of one (RFC 9110, 8.6).
        headers.remove(header::CONTENT_LENGTH);
        return Ok(());
    }
    let is_one = number(length.as_bytes()).is_some() && headers.get_all(header::CONTENT_LENGTH).iter().nth(1).is_none();
    if is_one { Ok(()) } else { join_lengths(headers) }
}

fn is_chunked_once(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    codings.next().is_some_and(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked")) && codings.next().is_none()
}

/// Writes a length that is there several times once (RFC 9110, 8.6: "5, 5" is 5 or refused, and never passed on).
fn join_lengths(headers: &mut HeaderMap) -> Result<(), Ambiguous> {
    let members =
        headers.get_all(header::CONTENT_LENGTH).iter().flat_map(|value| value.as_bytes().split(|it| *it == b','));
    let mut numbers = members.map(|member| number(member.trim_ascii()));
    let length = numbers.next().flatten().ok_or(Ambiguous)?;
    if numbers.any(|other| other != Some(length)) {
        return Err(Ambiguous);
    }
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    Ok(())
}

/// Reads `1*DIGIT`; the parser of the standard library takes a sign, too.
fn number(digits: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(status: u16, fields: &[(&str, &'static str)]) -> Result<Vec<HeaderValue>, Ambiguous> {
        let mut answer = Response::new(());
        *answer.status_mut() = StatusCode::from_u16(status).unwrap();
        for (name, value) in fields {
            answer.headers_mut().append(header::HeaderName::try_from(*name).unwrap(), HeaderValue::from_static(value));
        }
        settle(&mut answer)?;
        Ok(answer.headers().get_all(header::CONTENT_LENGTH).iter().cloned().collect())
    }

    #[test]
    fn one_chunked_or_a_length_is_plain() {
        let cases: [(&[(&str, &'static str)], bool); 8] = [
            (&[], true),
            (&[("content-length", "2")], true),
            (&[("transfer-encoding", "chunked")], true),
            (&[("transfer-encoding", "Chunked")], true),
            (&[("transfer-encoding", "chunked"), ("content-length", "2")], false),
            (&[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")], false),
            (&[("transfer-encoding", "gzip, chunked")], false),
            (&[("transfer-encoding", "")], false),
        ];
        for (fields, expected) in cases {
            assert_eq!(settled(200, fields).is_ok(), expected, "{fields:?}");
        }
    }

    #[test]
    fn a_length_is_passed_on_once_or_not_at_all() {
        let length = |values: &[&'static str]| {
            let fields: Vec<_> = values.iter().map(|value| ("content-length", *value)).collect();
            settled(200, &fields)
        };
        for good in [&["5"][..], &["5, 5"], &["5,5", "5"], &["5", "5"], &["05", "5"]] {
            assert_eq!(length(good).unwrap(), ["5"], "{good:?}");
        }
        for bad in [&["5, 6"][..], &["5", "6"], &[""], &["5,"], &["+5"], &["-5"], &["5 5"], &["99999999999999999999"]] {
            assert_eq!(length(bad), Err(Ambiguous), "{bad:?}");
        }
    }

    #[test]
    fn what_has_no_body_speaks_of_none() {
        for status in [101, 204] {
            assert_eq!(settled(status, &[("content-length", "5")]).unwrap(), [""; 0], "{status}");
        }
        // What a GET would have got (RFC 9110, 15.4.5).
        assert_eq!(settled(304, &[("content-length", "5")]).unwrap(), ["5"]);
    }
}
