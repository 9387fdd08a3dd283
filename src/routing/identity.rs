//! Who a request comes from: one trust rule for every route.
//!
//! The user that is decided here decides the bucket, is sent upstream and is stored as the job's owner. Whether the
//! peer is trusted is for the caller to say; which network it is in needs its address.

use http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::names::UserId;
use crate::routing::table::{Identity, Trusted};

/// Who a request comes from, and what that does to its identity header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identified {
    /// The user, the default one included; `None`: nobody.
    pub user: Option<UserId>,
    /// Whether the request itself names nobody, so that `user` is the default or none.
    pub anonymous: bool,
    /// What is done to the client's header on its way upstream.
    pub header: HeaderAction,
}

/// What is done to the client's identity header, whatever the route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderAction {
    /// It goes on as it came (also when there is none).
    Keep,
    /// It goes no further.
    Remove,
    /// This value takes its place.
    Replace(HeaderValue),
}

/// Says why an identity header is refused with 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadIdentity {
    /// It stands there more than once.
    #[error("the identity header is there more than once")]
    Duplicate,
    /// It holds a comma, so that some would read several users.
    #[error("the identity header holds a list")]
    List,
    /// It holds a control byte.
    #[error("the identity header holds a control byte")]
    Control,
}

/// Finds out who a request comes from. `peer_trusted` says whether the peer is in the trusted networks; where everybody
/// may set the header it plays no part.
///
/// # Errors
/// [`BadIdentity`] for a header that two readers could read differently, from any peer.
pub fn identify(headers: &HeaderMap, peer_trusted: bool, identity: &Identity) -> Result<Identified, BadIdentity> {
    let Some(value) = only_value(headers, &identity.header)? else {
        return Ok(anonymous(identity, HeaderAction::Keep));
    };
    let believed = match &identity.trusted {
        Trusted::Any => true,
        Trusted::Networks(_) => peer_trusted,
    };
    let user = if believed { UserId::filter(value.as_bytes()) } else { None };
    let passed_as_is = matches!(identity.trusted, Trusted::Any);
    Ok(match user {
        Some(user) => {
            let header = if passed_as_is { HeaderAction::Keep } else { decided(&user, value) };
            Identified { user: Some(user), anonymous: false, header }
        }
        None if passed_as_is => anonymous(identity, HeaderAction::Keep),
        None => anonymous(identity, HeaderAction::Remove),
    })
}

/// Removes headers that a backend might take for the identity header: its name with `-` and `_` exchanged.
///
/// CGI-like frameworks fold both into one name, and then `X_User_Id` would overrule the header that was decided on.
pub fn remove_spellings(headers: &mut HeaderMap, name: &HeaderName) {
    if headers.keys().any(|other| is_spelling(other, name)) {
        let spellings: Vec<HeaderName> = headers.keys().filter(|other| is_spelling(other, name)).cloned().collect();
        for spelling in spellings {
            headers.remove(spelling);
        }
    }
}

fn is_spelling(other: &HeaderName, name: &HeaderName) -> bool {
    let (other, name) = (other.as_str().as_bytes(), name.as_str().as_bytes());
    let fold = |byte: u8| if byte == b'_' { b'-' } else { byte };
    // Names are lower case in a `HeaderMap`.
    other.len() == name.len() && other != name && other.iter().zip(name).all(|(a, b)| fold(*a) == fold(*b))
}

fn only_value<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<Option<&'h HeaderValue>, BadIdentity> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(BadIdentity::Duplicate);
    }
    if value.as_bytes().contains(&b',') {
        return Err(BadIdentity::List);
    }
    if value.as_bytes().iter().any(u8::is_ascii_control) {
        return Err(BadIdentity::Control);
    }
    Ok(Some(value))
}

fn anonymous(identity: &Identity, header: HeaderAction) -> Identified {
    Identified { user: identity.default.clone(), anonymous: true, header }
}

fn decided(user: &UserId, came: &HeaderValue) -> HeaderAction {
    let bytes = user.header_bytes();
    if bytes == came.as_bytes() {
        return HeaderAction::Keep;
    }
    HeaderAction::Replace(HeaderValue::from_bytes(&bytes).expect("a filtered id has no control bytes"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn identity(trusted: Trusted, default: Option<&str>) -> Identity {
        Identity { header: HeaderName::from_static("x-user-id"), default: default.and_then(UserId::from_text), trusted }
    }

    fn networks() -> Trusted {
        Trusted::Networks(vec!["10.0.0.0/8".parse().unwrap()])
    }

    fn headers(values: &[&[u8]]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append("x-user-id", HeaderValue::from_bytes(value).unwrap());
        }
        headers
    }

    fn found(user: &str, header: HeaderAction) -> Identified {
        Identified { user: UserId::from_text(user), anonymous: false, header }
    }

    fn nobody(default: Option<&str>, header: HeaderAction) -> Identified {
        Identified { user: default.and_then(UserId::from_text), anonymous: true, header }
    }

    fn replace(bytes: &[u8]) -> HeaderAction {
        HeaderAction::Replace(HeaderValue::from_bytes(bytes).unwrap())
    }

    #[test]
    fn the_trust_rule() {
        use HeaderAction::{Keep, Remove};
        let cases = [
            // Everybody is believed: the header goes on unchanged, and legacy filters it to the same user.
            (Trusted::Any, false, Some("a"), Some(b"alice".as_slice()), found("alice", Keep)),
            (Trusted::Any, false, Some("a"), Some(b"../ali ce".as_slice()), found("alice", Keep)),
            (Trusted::Any, false, Some("a"), Some(b"caf\xe9".as_slice()), found("caf\u{e9}", Keep)),
            (Trusted::Any, false, Some("a"), Some(b"...".as_slice()), nobody(Some("a"), Keep)),
            (Trusted::Any, false, Some("a"), Some(b"".as_slice()), nobody(Some("a"), Keep)),
            (Trusted::Any, false, Some("a"), None, nobody(Some("a"), Keep)),
            (Trusted::Any, false, None, None, nobody(None, Keep)),
            (Trusted::Any, false, None, Some(b"...".as_slice()), nobody(None, Keep)),
            // A trusted peer: what was decided is what goes on.
            (networks(), true, Some("a"), Some(b"alice".as_slice()), found("alice", Keep)),
            (networks(), true, Some("a"), Some(b"../ali ce".as_slice()), found("alice", replace(b"alice"))),
            (networks(), true, Some("a"), Some(b"caf\xe9 x".as_slice()), found("caf\u{e9}x", replace(b"caf\xe9x"))),
            (networks(), true, Some("a"), Some(b"caf\xe9".as_slice()), found("caf\u{e9}", Keep)),
            (networks(), true, Some("a"), Some(b"...".as_slice()), nobody(Some("a"), Remove)),
            (networks(), true, None, None, nobody(None, Keep)),
            // Any other peer: its header counts for nothing and goes no further.
            (networks(), false, Some("a"), Some(b"alice".as_slice()), nobody(Some("a"), Remove)),
            (networks(), false, None, Some(b"alice".as_slice()), nobody(None, Remove)),
            (networks(), false, None, None, nobody(None, Keep)),
        ];
        for (trusted, peer, default, value, expected) in cases {
            let identity = identity(trusted, default);
            let headers = headers(value.as_slice());
            assert_eq!(identify(&headers, peer, &identity), Ok(expected), "{identity:?} {peer} {value:?}");
        }
    }

    #[test]
    fn what_two_readers_could_read_differently_is_refused_from_anybody() {
        let cases: [(&[&[u8]], BadIdentity); 6] = [
            (&[b"alice", b"bob"], BadIdentity::Duplicate),
            (&[b"alice", b"alice"], BadIdentity::Duplicate),
            (&[b"", b"alice"], BadIdentity::Duplicate),
            (&[b"alice, bob"], BadIdentity::List),
            (&[b",alice"], BadIdentity::List),
            (&[b"ali\tce"], BadIdentity::Control),
        ];
        for (values, expected) in cases {
            for (trusted, peer) in [(Trusted::Any, false), (networks(), true), (networks(), false)] {
                let identity = identity(trusted, Some("a"));
                assert_eq!(identify(&headers(values), peer, &identity), Err(expected), "{values:?}");
            }
        }
    }

    #[test]
    fn spellings_are_removed_and_the_header_itself_stays() {
        let name = HeaderName::from_static("x-user-id");
        let mut headers = HeaderMap::new();
        for spelling in
            ["X-User-Id", "X_User_Id", "x_user-id", "X-USER_ID", "x-user-ide", "xuser-id", "x_userid", "accept"]
        {
            headers.append(HeaderName::from_bytes(spelling.as_bytes()).unwrap(), HeaderValue::from_static("1"));
        }
        headers.append("x_user_id", HeaderValue::from_static("2"));
        remove_spellings(&mut headers, &name);
        let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["accept", "x-user-id", "x-user-ide", "x_userid", "xuser-id"]);
    }

    proptest! {
        #[test]
        fn any_bytes_have_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..24), peer: bool) {
            let Ok(value) = HeaderValue::from_bytes(&bytes) else { return Ok(()) };
            let mut headers = HeaderMap::new();
            headers.insert("x-user-id", value);
            for trusted in [Trusted::Any, networks()] {
                let Ok(identified) = identify(&headers, peer, &identity(trusted, None)) else { continue };
                if let HeaderAction::Replace(value) = &identified.header {
                    // What goes upstream filters to the very user that was decided.
                    prop_assert_eq!(UserId::filter(value.as_bytes()), identified.user.clone());
                }
                prop_assert_eq!(identified.anonymous, identified.user.is_none());
            }
        }

        #[test]
        fn removing_twice_is_removing_once(masks in prop::collection::vec(0u8..8, 0..6)) {
            let name = HeaderName::from_static("x-user-id");
            let mut headers = HeaderMap::new();
            for mask in masks {
                let dash = |bit: u8| if mask >> bit & 1 == 1 { '_' } else { '-' };
                let spelling = format!("x{}user{}id", dash(0), dash(1));
                headers.append(HeaderName::from_bytes(spelling.as_bytes()).unwrap(), HeaderValue::from_static("1"));
            }
            remove_spellings(&mut headers, &name);
            let once = headers.clone();
            remove_spellings(&mut headers, &name);
            prop_assert_eq!(&once, &headers);
            prop_assert!(once.keys().all(|key| *key == name));
        }
    }
}
