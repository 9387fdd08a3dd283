//! From a location to connections, and what their failures say about a write.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::cluster::ClusterClientBuilder;
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::{Route, RoutingInfo, SingleNodeRoutingInfo, SlotAddr};
use redis::sentinel::{SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo,
    RedisError, RedisResult, TlsMode, Value,
};

use crate::jobs::store::{Cause, StoreError};
use crate::limits;
use crate::routing::redis_location::{RedisKind, RedisLocation, RedisLogin, RedisNode};

/// A connection as long as it is good; clones share it.
#[derive(Clone)]
pub(super) struct Link {
    /// Grows from one connection to the next.
    pub(super) number: u64,
    write: Conn,
    /// Apart where writes wait for replicas: Redis answers a connection's commands in order.
    read: Conn,
    replicas: u32,
}

#[derive(Clone)]
enum Conn {
    One(MultiplexedConnection),
    /// It finds new nodes and connects again by itself.
    Cluster(ClusterConnection),
}

/// Answers of Redis that say: this was not carried out.
const REFUSED: [&str; 16] = [
    "READONLY",
    "LOADING",
    "OOM",
    "MISCONF",
    "NOREPLICAS",
    "MASTERDOWN",
    "NOAUTH",
    "NOPERM",
    "WRONGPASS",
    "BUSY",
    "MOVED",
    "ASK",
    "TRYAGAIN",
    "CLUSTERDOWN",
    "CROSSSLOT",
    "WRONGTYPE",
];

impl Link {
    /// Connects as the location says.
    pub(super) async fn connect(location: &RedisLocation, number: u64, replicas: u32) -> Result<Link, Cause> {
        let steps = if location.kind == RedisKind::Single { 1 } else { 3 };
        let write = in_time(limits::REDIS_CONNECT * steps, connect(location)).await?;
        let read = match &write {
            Conn::One(_) if replicas > 0 => in_time(limits::REDIS_CONNECT * steps, connect(location)).await?,
            shared => shared.clone(),
        };
        Ok(Link { number, write, read, replicas })
    }

    /// Says whether it gets well by itself when its peer goes away.
    pub(super) fn heals(&self) -> bool {
        matches!(self.write, Conn::Cluster(_))
    }

    /// Sends a command that changes nothing.
    pub(super) async fn read(&self, command: &Cmd) -> Result<Value, StoreError> {
        self.read.send(command).await.map_err(StoreError::Unavailable)
    }

    /// Sends a command about one key that changes it; where `durable`, waits until enough replicas have it.
    pub(super) async fn write(&self, key: &str, command: &Cmd, durable: bool) -> Result<Value, StoreError> {
        let value = self.write.send(command).await.map_err(judge)?;
        if durable && self.replicas > 0 {
            self.wait(key).await.map_err(StoreError::MaybeWritten)?;
        }
        Ok(value)
    }

    /// Waits until replicas have all that was written on this connection.
    async fn wait(&self, key: &str) -> Result<(), Cause> {
        let mut command = redis::cmd("WAIT");
        command.arg(self.replicas).arg(millis(limits::REDIS_REPLICA_WAIT));
        let value = match &self.write {
            Conn::One(_) => self.write.send(&command).await?,
            Conn::Cluster(conn) => {
                // Of the node that has the key: the connection to it is the one that the write went by.
                let node = SingleNodeRoutingInfo::SpecificNode(Route::with_key(key, SlotAddr::Master));
                let mut conn = conn.clone();
                let value =
                    in_time(limits::REDIS_WAIT, conn.route_command(command, RoutingInfo::SingleNode(node))).await?;
                value.extract_error()?
            }
        };
        let have = redis::from_redis_value::<u32>(value).map_err(RedisError::from)?;
        if have >= self.replicas { Ok(()) } else { Err(Cause::Replicas { have, wanted: self.replicas }) }
    }
}

impl Conn {
    async fn send(&self, command: &Cmd) -> Result<Value, Cause> {
        match self {
            Conn::One(conn) => in_time(limits::REDIS_WAIT, command.query_async(&mut conn.clone())).await,
            Conn::Cluster(conn) => in_time(limits::REDIS_WAIT, command.query_async(&mut conn.clone())).await,
        }
    }
}

/// Says what a failed write may have done.
fn judge(cause: Cause) -> StoreError {
    match &cause {
        Cause::Redis(error) if is_refusal(error) => StoreError::NotWritten(cause),
        _ => StoreError::MaybeWritten(cause),
    }
}

/// Says whether Redis has answered that it did not carry the command out.
pub(super) fn is_refusal(error: &RedisError) -> bool {
    error.code().is_some_and(|code| REFUSED.contains(&code))
}

/// Says whether a connection is of no more use after this.
pub(super) fn is_lost(cause: &Cause) -> bool {
    match cause {
        Cause::TooSlow => true,
        // A master that is one no more, or that came back empty-handed: somebody else may be it now.
        Cause::Redis(error) => {
            !is_refusal(error) && error.code().is_none()
                || matches!(error.code(), Some("READONLY" | "LOADING" | "MASTERDOWN" | "NOAUTH"))
        }
        _ => false,
    }
}

async fn in_time<T>(limit: Duration, work: impl Future<Output = RedisResult<T>>) -> Result<T, Cause> {
    match tokio::time::timeout(limit, work).await {
        Ok(result) => result.map_err(Cause::from),
        Err(_late) => Err(Cause::TooSlow),
    }
}

impl From<RedisError> for Cause {
    fn from(error: RedisError) -> Cause {
        Cause::Redis(Arc::new(error))
    }
}

async fn connect(location: &RedisLocation) -> RedisResult<Conn> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(limits::REDIS_CONNECT))
        // Each command has a bound of its own, which knows what the command was.
        .set_response_timeout(None)
        .set_pipeline_buffer_size(limits::REDIS_IN_FLIGHT);
    let client = match &location.kind {
        RedisKind::Single => Client::open(info(&location.nodes[0], location, &location.login)?)?,
        RedisKind::Sentinel(name) => master(location, name).await?,
        RedisKind::Cluster => return cluster(location).await.map(Conn::Cluster),
    };
    client.get_multiplexed_async_connection_with_config(&config).await.map(Conn::One)
}

/// Asks the Sentinels for the master, and the master whether it is one.
async fn master(location: &RedisLocation, name: &str) -> RedisResult<Client> {
    let nodes: Vec<_> = location.nodes.iter().map(|node| address(node, location.tls)).collect();
    let mut builder = SentinelClientBuilder::new(nodes, name, SentinelServerType::Master)?;
    builder = builder.set_client_to_redis_db(i64::from(location.db));
    if location.tls {
        builder = builder.set_client_to_redis_tls_mode(TlsMode::Secure);
        builder = builder.set_client_to_sentinel_tls_mode(TlsMode::Secure);
    }
    if let Some(password) = &location.login.password {
        builder = builder.set_client_to_redis_password(&password.0);
    }
    if let Some(user) = &location.login.user {
        builder = builder.set_client_to_redis_username(user);
    }
    if let Some(password) = &location.sentinel_login.password {
        builder = builder.set_client_to_sentinel_password(&password.0);
    }
    if let Some(user) = &location.sentinel_login.user {
        builder = builder.set_client_to_sentinel_username(user);
    }
    builder.build()?.async_get_client().await
}

async fn cluster(location: &RedisLocation) -> RedisResult<ClusterConnection> {
    let nodes: Vec<_> =
        location.nodes.iter().map(|node| info(node, location, &location.login)).collect::<Result<_, _>>()?;
    let mut builder = ClusterClientBuilder::new(nodes)
        .connection_timeout(limits::REDIS_CONNECT)
        .response_timeout(limits::REDIS_WAIT)
        // All that is sent may be sent again; the bound around each command ends it.
        .retries(8)
        .min_retry_wait(10)
        .max_retry_wait(200);
    if location.tls {
        builder = builder.tls(TlsMode::Secure);
    }
    builder.build()?.get_async_connection().await
}

fn info(node: &RedisNode, location: &RedisLocation, login: &RedisLogin) -> RedisResult<ConnectionInfo> {
    let mut settings = RedisConnectionInfo::default().set_db(i64::from(location.db));
    if let Some(user) = &login.user {
        settings = settings.set_username(user);
    }
    if let Some(password) = &login.password {
        settings = settings.set_password(&password.0);
    }
    Ok(address(node, location.tls).into_connection_info()?.set_redis_settings(settings))
}

fn address(node: &RedisNode, tls: bool) -> ConnectionAddr {
    let (host, port) = (node.host.clone(), node.port);
    match tls {
        // Certificates are always verified; `None` means by the system's roots.
        true => ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None },
        false => ConnectionAddr::Tcp(host, port),
    }
}

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
