//! Who a request comes from, in all the ways that it may say so.

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
    for spelling in ["X-User-Id", "X_User_Id", "x_user-id", "X-USER_ID", "x-user-ide", "xuser-id", "x_userid", "accept"]
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
    let invalid = |bad| Identified { user: None, anonymous: true, header: HeaderAction::Remove, bad_token: Some(bad) };
    let (token, cookie, user) = (("authorization", bearer.as_str()), ("cookie", "x=1; uid=kim"), ("x-user-id", "ann"));
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
        (vec![("cookie", "UID=kim; uid2=kim; xuid=kim; uid"), user], false, nobody(Some("a"), HeaderAction::Remove)),
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
        let identified = identify(&with(&[("x-token", value), ("authorization", "Bearer x")]), false, &proven(&own));
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
