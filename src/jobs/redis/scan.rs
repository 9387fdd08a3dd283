//! Every record of the store, for a copy of it: each master of a Cluster is gone through by itself.

use redis::Value;

use super::connect::Link;
use super::context::Context;
use super::ops::read;
use crate::jobs::store::StoreError;
use crate::limits;
use crate::names::JobId;
use crate::routing::redis_location::{RedisKind, RedisLocation, RedisNode};

/// Returns the ids of all jobs and the keys of all intents.
pub(super) async fn all(context: &Context) -> Result<(Vec<JobId>, Vec<String>), StoreError> {
    let (mut jobs, mut intents) = (Vec::new(), Vec::new());
    let [job, intent] = context.keys.beginnings();
    for master in masters(context).await? {
        let link = Link::connect(&master, 0, 0).await.map_err(StoreError::Unavailable)?;
        let mut cursor = "0".to_owned();
        loop {
            let mut command = redis::cmd("SCAN");
            command.arg(&cursor).arg("MATCH").arg(format!("{}:*", context.location.prefix));
            command.arg("COUNT").arg(limits::LISTED);
            let (next, keys): (String, Vec<String>) = read(link.read(&command).await?)?;
            for key in keys {
                if let Some(id) = key.strip_prefix(&job) {
                    jobs.extend(JobId::parse(id));
                } else if let Some(key) = key.strip_prefix(&intent) {
                    intents.push(key.to_owned());
                }
            }
            if next == "0" {
                break;
            }
            cursor = next;
        }
    }
    // A scan may return a key twice.
    jobs.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
    jobs.dedup();
    intents.sort_unstable();
    intents.dedup();
    Ok((jobs, intents))
}

/// Returns where records are: the one Redis, or each master of a Cluster.
async fn masters(context: &Context) -> Result<Vec<RedisLocation>, StoreError> {
    if context.location.kind != RedisKind::Cluster {
        return Ok(vec![context.location.clone()]);
    }
    let mut command = redis::cmd("CLUSTER");
    command.arg("SLOTS");
    // Ranges of slots: first, last, then the nodes, the master first: host, port, and more.
    let ranges: Vec<Vec<Value>> = read(context.read(&command).await?)?;
    let mut masters = Vec::new();
    for range in ranges {
        let Some(Value::Array(master)) = range.into_iter().nth(2) else { continue };
        let mut parts = master.into_iter();
        let (Some(host), Some(port)) = (parts.next(), parts.next()) else { continue };
        let node = RedisNode { host: read(host)?, port: read(port)? };
        let location = RedisLocation { kind: RedisKind::Single, nodes: vec![node], ..context.location.clone() };
        if !masters.contains(&location) {
            masters.push(location);
        }
    }
    Ok(masters)
}
