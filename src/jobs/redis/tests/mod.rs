//! The shared store on real servers: lost answers, servers that go away, and several gateways at once.

mod faults;
mod several;

use std::time::{Duration, Instant};

use super::RedisStore;
use crate::jobs::Jobs;
use crate::jobs::clock::Clock;
use crate::jobs::record::{Intent, IntentState, Job, JobState};
use crate::jobs::redis_server::Redis;
use crate::jobs::tests::records::*;
use crate::names::{BackendName, UserId};
use crate::routing::table::StoreLocation;

fn location(url: &str) -> StoreLocation {
    crate::config::parse_store(url).unwrap()
}

fn open(url: &str) -> RedisStore {
    open_waiting(url, 0)
}

fn open_waiting(url: &str, replicas: u32) -> RedisStore {
    let StoreLocation::Redis { location, .. } = location(url) else { panic!("{url} is a file") };
    RedisStore::open(&location, replicas, settings())
}

fn jobs(redis: &Redis) -> Jobs {
    Jobs::open(&location(&redis.url()), settings()).unwrap()
}
