//! What is kept of a GET while it is under way, in case that it has to be sent once more.

use http::{HeaderName, HeaderValue, Method, Request, Uri};

use crate::http::body::Upload;

/// What a GET needs to be sent once more. Its fields are kept as text, in one allocation: copying the map costs several
/// times as much, and one in a million is read back. What hyper keeps of their spelling is left out.
pub(super) struct Spare {
    method: Method,
    uri: Uri,
    /// `name:value\n` for each; neither part can hold what ends it.
    fields: Vec<u8>,
}

impl Spare {
    /// Keeps what a request without a body is made of.
    pub(super) fn of(request: &Request<Upload>) -> Spare {
        let mut fields = Vec::with_capacity(1024);
        for (name, value) in request.headers() {
            fields.extend_from_slice(name.as_str().as_bytes());
            fields.push(b':');
            fields.extend_from_slice(value.as_bytes());
            fields.push(b'\n');
        }
        Spare { method: request.method().clone(), uri: request.uri().clone(), fields }
    }

    /// Makes the request once more.
    pub(super) fn into_request(self) -> Box<Request<Upload>> {
        let mut request = Box::new(Request::new(Upload::Empty));
        *request.method_mut() = self.method;
        *request.uri_mut() = self.uri;
        for field in self.fields.split(|byte| *byte == b'\n') {
            let Some(colon) = memchr::memchr(b':', field) else { continue };
            let name = HeaderName::from_bytes(&field[..colon]).expect("a name, as it was");
            let value = HeaderValue::from_bytes(&field[colon + 1..]).expect("a value, as it was");
            request.headers_mut().append(name, value);
        }
        request
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_is_sent_again_has_the_fields_it_had() {
        let mut request = Request::new(Upload::Empty);
        *request.uri_mut() = Uri::from_static("/a?b=c");
        for (name, value) in [("host", &b"h:1"[..]), ("cookie", b"a=b; c:d"), ("cookie", b"\xe9\t"), ("x-empty", b"")] {
            let value = HeaderValue::from_bytes(value).expect("a value");
            request.headers_mut().append(HeaderName::from_static(name), value);
        }
        let again = Spare::of(&request).into_request();
        assert_eq!((again.method(), again.uri()), (request.method(), request.uri()));
        assert_eq!(again.headers(), request.headers());
    }
}
