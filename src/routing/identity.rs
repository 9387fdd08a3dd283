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
mod tests;
