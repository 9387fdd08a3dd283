//! `jobs.store`: a file, or a Redis that several gateways share.
//!
//! ```text
//! data/jobs.db
//! redis://[user:password@]host[:6379][/db]                          rediss:// is the same over TLS
//! redis-sentinel://[user:password@]h1[:26379],h2,h3/name[/db]       name: what Sentinels call the master
//! redis-cluster://[user:password@]h1[:6379],h2,h3
//! ```
//! After a `?`: `prefix=` (what every key begins with), `sentinel_user=` and `sentinel_password=`. User, password and
//! these values may be percent-encoded. What is said of a mistake never holds a part of the text, since that may be a
//! password.

use super::check::{Checker, join};
use super::file::File;
use super::problem::Mistake;
use super::texts::Line;
use super::url::{parse_host, parse_port, split_port};
use super::values::Value;
use crate::limits;
use crate::routing::redis_location::{RedisKind, RedisLocation, RedisLogin, RedisNode};
use crate::routing::table::{Secret, StoreLocation};

/// A job store as written.
#[derive(Debug, Clone)]
pub(crate) enum Store {
    /// A path.
    File(String),
    /// A Redis.
    Redis(Box<RedisLocation>),
}

const EXAMPLE: &str = "write a file such as \"data/jobs.db\", or \"redis://:${REDIS_PASSWORD}@host:6379\"";

impl Value for Store {
    const EXPECTED: &'static str = "a file such as \"data/jobs.db\", or \"redis://host:6379\"";

    fn parse(text: &str) -> Result<Store, Mistake> {
        match text.split_once("://") {
            Some((scheme, rest)) => parse_redis(scheme, rest).map(|location| Store::Redis(Box::new(location))),
            None => Line::parse(text).map(|line| Store::File(line.0)),
        }
    }
}

fn parse_redis(scheme: &str, rest: &str) -> Result<RedisLocation, Mistake> {
    let (tls, form) = match scheme.strip_prefix("rediss") {
        Some(form) => (true, form),
        None => (false, scheme.strip_prefix("redis").ok_or_else(|| mistake("has a scheme that is no store's"))?),
    };
    if rest.contains('#') || !rest.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Mistake::new(
            "has a character that must be percent-encoded in an address",
            "write # as %23, a space as %20, and letters beyond ASCII likewise",
        ));
    }
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (login, nodes) = match authority.rsplit_once('@') {
        Some((login, nodes)) => (parse_login(login)?, nodes),
        None => (RedisLogin::default(), authority),
    };
    let mut path = path.split('/');
    let (kind, port) = match form {
        "" => (RedisKind::Single, 6379),
        "-cluster" => (RedisKind::Cluster, 6379),
        "-sentinel" => (RedisKind::Sentinel(parse_name(path.next().unwrap_or_default())?), 26379),
        _ => return Err(mistake("has a scheme that is no store's")),
    };
    let nodes = nodes.split(',').map(|node| parse_node(node, port)).collect::<Result<Vec<_>, _>>()?;
    if kind == RedisKind::Single && nodes.len() > 1 {
        let advice = "write redis-cluster:// or redis-sentinel:// for several, or name one";
        return Err(Mistake::new("names several hosts, but one Redis", advice));
    }
    let db = parse_db(path.next().unwrap_or_default(), &kind)?;
    if path.next().is_some() {
        return Err(mistake("has more path than a store has"));
    }
    let mut location = RedisLocation {
        kind,
        tls,
        nodes,
        db,
        login,
        sentinel_login: RedisLogin::default(),
        prefix: "export-gateway".to_owned(),
    };
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        set(&mut location, pair)?;
    }
    Ok(location)
}

fn mistake(message: &str) -> Mistake {
    Mistake::new(message, EXAMPLE)
}

fn parse_login(text: &str) -> Result<RedisLogin, Mistake> {
    let (user, password) = text.split_once(':').map_or((text, None), |(user, password)| (user, Some(password)));
    let user = Some(decode(user)?).filter(|user| !user.is_empty());
    let password = password.map(decode).transpose()?.filter(|password| !password.is_empty());
    if user.is_some() && password.is_none() {
        return Err(Mistake::new(
            "has a user without a password",
            "write user:password@, or :password@ for the default",
        ));
    }
    Ok(RedisLogin { user, password: password.map(Secret) })
}

fn parse_node(text: &str, port: u16) -> Result<RedisNode, Mistake> {
    // What these say of a host names it, and it may be a piece of a password with a / in it.
    let parts = split_port(text).ok().and_then(|(host, port)| Some((parse_host(host).ok()?, port)));
    let (host, written) = parts.ok_or_else(|| mistake("has a host that is not a name or an IP address"))?;
    Ok(RedisNode { host, port: written.map_or(Ok(port), parse_port)? })
}

fn parse_name(text: &str) -> Result<String, Mistake> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if (1..=128).contains(&text.len()) && text.bytes().all(fits) {
        return Ok(text.to_owned());
    }
    let advice = "write it after the hosts: \"redis-sentinel://h1:26379,h2:26379/mymaster\"";
    Err(Mistake::new("does not say which master the Sentinels are asked for", advice))
}

fn parse_db(text: &str, kind: &RedisKind) -> Result<u16, Mistake> {
    let db = if text.is_empty() { Some(0) } else { text.parse().ok().filter(|_| !text.starts_with('+')) };
    let db = db.ok_or_else(|| mistake("has a database that is not a number"))?;
    if db > 0 && *kind == RedisKind::Cluster {
        return Err(Mistake::new("names a database, but a Cluster has just one", "leave it out"));
    }
    Ok(db)
}

fn set(location: &mut RedisLocation, pair: &str) -> Result<(), Mistake> {
    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
    let value = decode(value)?;
    match name {
        "prefix" => {
            let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':');
            if !(1..=64).contains(&value.len()) || !value.bytes().all(fits) {
                let advice = "use letters, digits, and - _ . : between them, at most 64";
                return Err(Mistake::new("has a prefix that is not a plain word", advice));
            }
            location.prefix = value;
        }
        "sentinel_user" if matches!(location.kind, RedisKind::Sentinel(_)) => {
            location.sentinel_login.user = Some(value);
        }
        "sentinel_password" if matches!(location.kind, RedisKind::Sentinel(_)) => {
            location.sentinel_login.password = Some(Secret(value));
        }
        _ => {
            let advice = "known are prefix, and for Sentinel sentinel_user and sentinel_password";
            return Err(Mistake::new("has a parameter after its ? that is not known", advice));
        }
    }
    Ok(())
}

fn decode(text: &str) -> Result<String, Mistake> {
    let bad = || Mistake::new("has a % that begins no percent-encoding", "write a % of its own as %25");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
        let (high, low) = (digit(rest.next()), digit(rest.next()));
        let value = high.zip(low).map(|(high, low)| high * 16 + low).ok_or_else(bad)?;
        bytes.push(u8::try_from(value).map_err(|_| bad())?);
    }
    String::from_utf8(bytes).map_err(|_| bad())
}

/// Compiles `[jobs] store` and what belongs to it.
pub(crate) fn check_store(checker: &mut Checker<'_>, file: &File) -> StoreLocation {
    let wait_replicas = file.jobs.wait_replicas.0;
    match &file.jobs.store.0 {
        Store::File(path) => {
            if wait_replicas > 0 && !checker.reported(&["jobs", "store"]) {
                let advice = "leave it out, or name a Redis that has replicas in jobs.store";
                checker.problem(&["jobs", "wait_replicas"], "is for a store on Redis, and this one is a file", advice);
            }
            StoreLocation::File(join(checker.base_dir, path))
        }
        Store::Redis(location) => {
            if wait_replicas > limits::REDIS_REPLICAS {
                checker.problem(&["jobs", "wait_replicas"], "is more than any Redis has", "write 1 or 2");
            }
            if !location.tls && location.login.password.is_some() && !is_near(location) {
                let message =
                    "sends its password and every record unencrypted: write rediss:// unless the network is safe";
                checker.warn(&["jobs", "store"], message);
            }
            StoreLocation::Redis { location: RedisLocation::clone(location), wait_replicas }
        }
    }
}

/// Says whether every node is this machine.
fn is_near(location: &RedisLocation) -> bool {
    let is_loopback = |host: &str| host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    location.nodes.iter().all(|node| node.host == "localhost" || is_loopback(&node.host))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redis(text: &str) -> RedisLocation {
        match Store::parse(text) {
            Ok(Store::Redis(location)) => *location,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn every_form_of_a_store_is_taken_apart() {
        assert!(matches!(Store::parse("data/jobs.db"), Ok(Store::File(path)) if path == "data/jobs.db"));
        let plain = redis("redis://cache");
        assert_eq!((plain.to_string().as_str(), plain.db, plain.tls), ("redis://cache:6379", 0, false));
        assert_eq!((plain.login, plain.prefix.as_str()), (RedisLogin::default(), "export-gateway"));
        let full = redis("rediss://ann:p%40ss%3a%2f@[::1]:7000/3?prefix=staging:eu");
        assert_eq!(full.to_string(), "rediss://[::1]:7000/3");
        assert_eq!(full.login.user.as_deref(), Some("ann"));
        assert_eq!(full.login.password, Some(Secret("p@ss:/".into())));
        assert_eq!(full.prefix, "staging:eu");
        let sentinel = redis("redis-sentinel://:pw@a,b:5000,c/my-master/2?sentinel_user=s&sentinel_password=t%26");
        assert_eq!(sentinel.to_string(), "redis-sentinel://a:26379,b:5000,c:26379/my-master/2");
        assert_eq!(sentinel.login, RedisLogin { user: None, password: Some(Secret("pw".into())) });
        assert_eq!(sentinel.sentinel_login.password, Some(Secret("t&".into())));
        let cluster = redis("rediss-cluster://h1:7000,h2:7001");
        assert_eq!(
            (cluster.to_string().as_str(), cluster.kind),
            ("rediss-cluster://h1:7000,h2:7001", RedisKind::Cluster)
        );
    }

    #[test]
    fn what_is_no_store_is_refused_and_no_password_is_repeated() {
        let bad = "http://h|redis-x://h|redis://|redis://h/x|redis://h/1/2|redis://h/+1|redis://a,b|redis://h?x=1\
            |redis-sentinel://h|redis-sentinel://h/a%20b|redis-cluster://h/1|redis://u@h|redis://:p%4@h|redis://:p%zz@h\
            |redis://h:0|redis://h?prefix=|redis://h?prefix=a*|redis://h?sentinel_password=hunter2|redis://:p#w@h\
            |redis://:hunter2@h:x|redis-cluster://:hunter2@a,,b|redis://:hunter2@a@b/9/9|memory://|\u{7}";
        for text in bad.split('|') {
            let said = Store::parse(text).expect_err(text);
            assert!(!format!("{said:?}{said}").contains("hunter2"), "{text}: {said}");
        }
        let shown = format!("{:?}", Store::parse("redis://u:hunter2@h").expect("it is one"));
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
