//! Where a shared job store is: one Redis, the master that Sentinels name, or a Cluster.

use std::fmt;

use super::table::Secret;

/// A Redis as `jobs.store` names it. Its `Display` is for logs: addresses, and nothing that is secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisLocation {
    /// How the addresses are to be understood.
    pub kind: RedisKind,
    /// `true` for `rediss`: TLS with verified certificates, to Sentinels too.
    pub tls: bool,
    /// One address, or several for Sentinel and Cluster: any that answers will do.
    pub nodes: Vec<RedisNode>,
    /// The database; always 0 in a Cluster.
    pub db: u16,
    /// What Redis is told of who connects.
    pub login: RedisLogin,
    /// What Sentinels are told; they have passwords of their own.
    pub sentinel_login: RedisLogin,
    /// What every key begins with, so that several gateways of different makes can share a Redis.
    pub prefix: String,
}

/// What the addresses of a [`RedisLocation`] are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedisKind {
    /// A Redis.
    Single,
    /// Sentinels, which are asked for the master of this name.
    Sentinel(String),
    /// Nodes of a Cluster, which is asked for the others.
    Cluster,
}

/// One address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisNode {
    /// A name or an address, IPv6 without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// A user and a password, either of which may be missing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RedisLogin {
    /// The user of an ACL; without one it is `default`.
    pub user: Option<String>,
    /// The password.
    pub password: Option<Secret>,
}

impl fmt::Display for RedisNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for RedisLocation {
    /// Writes `redis-sentinel://a:26379,b:26379/name`, as `jobs.store` has it but without user and password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.tls { "rediss" } else { "redis" })?;
        match self.kind {
            RedisKind::Single => {}
            RedisKind::Sentinel(_) => f.write_str("-sentinel")?,
            RedisKind::Cluster => f.write_str("-cluster")?,
        }
        f.write_str("://")?;
        for (at, node) in self.nodes.iter().enumerate() {
            write!(f, "{}{node}", if at == 0 { "" } else { "," })?;
        }
        if let RedisKind::Sentinel(name) = &self.kind {
            write!(f, "/{name}")?;
        }
        if self.db > 0 {
            write!(f, "/{}", self.db)?;
        }
        Ok(())
    }
}
