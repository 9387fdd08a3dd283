//! Who a request comes from: one trust rule for every route.
//!
//! The user that is decided here decides the bucket, is sent upstream and is stored as the job's owner. A token is read
//! first, then a cookie, then the header. Whether the peer is trusted is for the caller to say; which network it is in
//! needs its address.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::limits;
use crate::names::UserId;
use crate::routing::table::{Identity, Trusted};
use crate::routing::token::{self, BadToken};

/// Who a request comes from, and what that does to its identity header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identified {
    /// The user, the default one included; `None`: nobody.
    pub user: Option<UserId>,
    /// Whether the request itself names nobody, so that `user` is the default or none.
    pub anonymous: bool,
    /// What is done to the client's header on its way upstream.
    pub header: HeaderAction,
    /// Why the token that is there names nobody: then there is no user, not even the default one.
    pub bad_token: Option<BadToken>,
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

/// Says why a request's identity is refused with 400, whatever it is written in: header, cookie or token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadIdentity {
    /// It stands there more than once.
    #[error("the identity is there more than once")]
    Duplicate,
    /// It holds a comma, so that some would read several users.
    #[error("the identity holds a list")]
    List,
    /// It holds a control byte.
    #[error("the identity holds a control byte")]
    Control,
    /// It is longer than [`limits::USER_VALUE`].
    #[error("the identity is too long")]
    TooLong,
}

/// Finds out who a request comes from. `peer_trusted` says whether the peer is in the trusted networks; where everybody
/// may set the header it plays no part.
///
/// # Errors
/// [`BadIdentity`] for what two readers could read differently, from any peer.
pub fn identify(headers: &HeaderMap, peer_trusted: bool, identity: &Identity) -> Result<Identified, BadIdentity> {
    let value = only_value(headers, &identity.header)?;
    if (identity.jwt.is_some() || identity.cookie.is_some())
        && let Some(identified) = proven(headers, value, identity)?
    {
        return Ok(identified);
    }
    let Some(value) = value else {
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
            let header = if passed_as_is { HeaderAction::Keep } else { decided(&user, Some(value)) };
            Identified { user: Some(user), anonymous: false, header, bad_token: None }
        }
        None if passed_as_is => anonymous(identity, HeaderAction::Keep),
        None => anonymous(identity, HeaderAction::Remove),
    })
}

/// Reads the token, then the cookie; `None` when neither is there.
fn proven(
    headers: &HeaderMap,
    came: Option<&HeaderValue>,
    identity: &Identity,
) -> Result<Option<Identified>, BadIdentity> {
    let found = |user: UserId| {
        let header = decided(&user, came);
        Ok(Some(Identified { user: Some(user), anonymous: false, header, bad_token: None }))
    };
    if let Some(jwt) = &identity.jwt
        && let Some(token) = token_in(headers, &jwt.header)?
    {
        return match token::user_of(jwt, token) {
            Ok(user) => found(user),
            Err(bad) => {
                let header = HeaderAction::Remove;
                Ok(Some(Identified { user: None, anonymous: true, header, bad_token: Some(bad) }))
            }
        };
    }
    if let Some(name) = &identity.cookie
        && let Some(value) = cookie_in(headers, name)?
        && let Some(user) = UserId::filter(value)
    {
        return found(user);
    }
    Ok(None)
}

/// Finds the token: in `Authorization` behind `Bearer`, elsewhere as it is or behind `Bearer`.
///
/// Another scheme in `Authorization` is no token.
fn token_in<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<Option<&'h [u8]>, BadIdentity> {
    let Some(value) = single(headers, name)? else { return Ok(None) };
    let value = value.as_bytes();
    let scheme = value.get(..6).filter(|scheme| scheme.eq_ignore_ascii_case(b"bearer"));
    let behind = scheme.map(|_| &value[6..]).filter(|rest| rest.first().is_none_or(|byte| *byte == b' '));
    match behind {
        Some(token) => Ok(Some(token.trim_ascii())),
        None if *name == header::AUTHORIZATION => Ok(None),
        None => Ok(Some(value)),
    }
}

/// Finds a cookie's value in the one way that all readers agree on.
fn cookie_in<'h>(headers: &'h HeaderMap, name: &str) -> Result<Option<&'h [u8]>, BadIdentity> {
    let mut found = None;
    for pair in headers.get_all(header::COOKIE).iter().flat_map(|field| field.as_bytes().split(|byte| *byte == b';')) {
        let Some(at) = pair.iter().position(|byte| *byte == b'=') else { continue };
        if pair[..at].trim_ascii() == name.as_bytes() && found.replace(pair[at + 1..].trim_ascii()).is_some() {
            return Err(BadIdentity::Duplicate);
        }
    }
    match found {
        Some(value) if value.len() > limits::USER_VALUE => Err(BadIdentity::TooLong),
        Some(value) => plain(value).map(|()| found),
        None => Ok(None),
    }
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
    let value = single(headers, name)?;
    value.map_or(Ok(()), |value| plain(value.as_bytes())).map(|()| value)
}

fn single<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<Option<&'h HeaderValue>, BadIdentity> {
    let mut values = headers.get_all(name).iter();
    let value = values.next();
    if values.next().is_some() { Err(BadIdentity::Duplicate) } else { Ok(value) }
}

fn plain(value: &[u8]) -> Result<(), BadIdentity> {
    if value.contains(&b',') {
        return Err(BadIdentity::List);
    }
    if value.iter().any(u8::is_ascii_control) {
        return Err(BadIdentity::Control);
    }
    Ok(())
}

fn anonymous(identity: &Identity, header: HeaderAction) -> Identified {
    Identified { user: identity.default.clone(), anonymous: true, header, bad_token: None }
}

fn decided(user: &UserId, came: Option<&HeaderValue>) -> HeaderAction {
    let bytes = user.header_bytes();
    if came.is_some_and(|came| came.as_bytes() == bytes) {
        return HeaderAction::Keep;
    }
    HeaderAction::Replace(HeaderValue::from_bytes(&bytes).expect("a filtered id has no control bytes"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn identity(trusted: Trusted, default: Option<&str>) -> Identity {
        Identity {
            header: HeaderName::from_static("x-user-id"),
            default: default.and_then(UserId::from_text),
            trusted,
            cookie: None,
            jwt: None,
        }
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
        Identified { user: UserId::from_text(user), anonymous: false, header, bad_token: None }
    }

    fn nobody(default: Option<&str>, header: HeaderAction) -> Identified {
        Identified { user: default.and_then(UserId::from_text), anonymous: true, header, bad_token: None }
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

    const SECRET: &str = "0123456789abcdef0123456789abcdef";

    /// Tokens in `X-Token`, a cookie, and a header that only 10.0.0.0/8 may set.
    fn proven(header: &HeaderName) -> Identity {
        let jwt = token::Jwt {
            header: header.clone(),
            claim: "sub".to_owned(),
            issuer: None,
            audience: None,
            file: std::path::PathBuf::new(),
            keys: token::Keys::read(SECRET.as_bytes(), None, None).unwrap(),
        };
        Identity { jwt: Some(jwt), cookie: Some("uid".to_owned()), ..identity(networks(), Some("a")) }
    }

    /// `{"alg":"HS256"}` and `{"sub":"tom","exp":4102444800}` (2100), signed with [`SECRET`].
    const TOKEN: &str =
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ0b20iLCJleHAiOjQxMDI0NDQ4MDB9.G2K0kh38UrOLz21dnvbTRghRG70-HTwJBfjTEPoK91c";

    fn with(fields: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn a_token_comes_before_a_cookie_and_a_cookie_before_the_header() {
        let bearer = format!("Bearer {TOKEN}");
        let shout = format!("bEARER   {TOKEN} ");
        let invalid =
            |bad| Identified { user: None, anonymous: true, header: HeaderAction::Remove, bad_token: Some(bad) };
        let (token, cookie, user) =
            (("authorization", bearer.as_str()), ("cookie", "x=1; uid=kim"), ("x-user-id", "ann"));
        let cases = [
            (vec![token, cookie, user], true, found("tom", replace(b"tom"))),
            (vec![token], false, found("tom", replace(b"tom"))),
            (vec![("authorization", shout.as_str())], false, found("tom", replace(b"tom"))),
            (vec![token, ("x-user-id", "tom")], false, found("tom", HeaderAction::Keep)),
            (vec![cookie, user], true, found("kim", replace(b"kim"))),
            (vec![("cookie", "uid =\"kim\"")], true, found("kim", replace(b"kim"))),
            (vec![("cookie", "uid=../kim")], true, found("kim", replace(b"kim"))),
            (vec![user], true, found("ann", HeaderAction::Keep)),
            (vec![user], false, nobody(Some("a"), HeaderAction::Remove)),
            (vec![], false, nobody(Some("a"), HeaderAction::Keep)),
            // Names are exact, other schemes are no tokens, an empty cookie names nobody.
            (
                vec![("cookie", "UID=kim; uid2=kim; xuid=kim; uid"), user],
                false,
                nobody(Some("a"), HeaderAction::Remove),
            ),
            (vec![("cookie", "uid=; a=b"), user], true, found("ann", HeaderAction::Keep)),
            (vec![("cookie", "uid=..."), user], true, found("ann", HeaderAction::Keep)),
            (vec![("authorization", "Basic eDp5"), cookie], true, found("kim", replace(b"kim"))),
            (vec![("authorization", "Bearerx"), cookie], true, found("kim", replace(b"kim"))),
            // What is there and no good is nobody, whatever else is there.
            (vec![("authorization", "Bearer"), cookie, user], true, invalid(BadToken::Malformed)),
            (vec![("authorization", "Bearer "), cookie], true, invalid(BadToken::Malformed)),
            (vec![("authorization", "Bearer a.b.c"), user], true, invalid(BadToken::Malformed)),
        ];
        for (fields, trusted, expected) in cases {
            let identified = identify(&with(&fields), trusted, &proven(&header::AUTHORIZATION));
            assert_eq!(identified, Ok(expected), "{fields:?} {trusted}");
        }
        let own = HeaderName::from_static("x-token");
        for value in [TOKEN, bearer.as_str()] {
            let identified =
                identify(&with(&[("x-token", value), ("authorization", "Bearer x")]), false, &proven(&own));
            assert_eq!(identified, Ok(found("tom", replace(b"tom"))), "{value}");
        }
        assert_eq!(identify(&with(&[("x-token", "")]), false, &proven(&own)), Ok(invalid(BadToken::Malformed)));
    }

    #[test]
    fn cookies_and_tokens_that_could_be_read_in_two_ways_are_refused() {
        let long = format!("uid={}", "x".repeat(limits::USER_VALUE + 1));
        let bearer = format!("Bearer {TOKEN}");
        let cases = [
            (vec![("cookie", "uid=kim; uid=tom")], BadIdentity::Duplicate),
            (vec![("cookie", "uid=kim; uid=kim")], BadIdentity::Duplicate),
            (vec![("cookie", "uid=kim"), ("cookie", "uid=tom")], BadIdentity::Duplicate),
            (vec![("cookie", "uid=kim;uid = tom")], BadIdentity::Duplicate),
            (vec![("cookie", "uid=kim, uid=tom")], BadIdentity::List),
            (vec![("cookie", "uid=k\tim")], BadIdentity::Control),
            (vec![("cookie", long.as_str())], BadIdentity::TooLong),
            (vec![("authorization", &bearer), ("authorization", &bearer)], BadIdentity::Duplicate),
            (vec![("authorization", "Basic x"), ("authorization", &bearer)], BadIdentity::Duplicate),
            (vec![("authorization", &bearer), ("x-user-id", "a"), ("x-user-id", "b")], BadIdentity::Duplicate),
        ];
        for (fields, expected) in cases {
            let identified = identify(&with(&fields), true, &proven(&header::AUTHORIZATION));
            assert_eq!(identified, Err(expected), "{fields:?}");
        }
    }

    proptest! {
        #[test]
        fn any_cookie_and_any_token_have_an_answer(cookie in "[ -~]{0,40}", token in "(Bearer )?[ -~]{0,40}") {
            let headers = with(&[("cookie", &cookie), ("authorization", &token), ("x-user-id", "ann")]);
            if let Ok(identified) = identify(&headers, false, &proven(&header::AUTHORIZATION)) {
                // A header that nobody trusts never stays beside somebody it does not name.
                prop_assert!(identified.header != HeaderAction::Keep || identified.user == UserId::from_text("ann"));
                prop_assert!(identified.bad_token.is_none() || identified.user.is_none());
            }
        }

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
