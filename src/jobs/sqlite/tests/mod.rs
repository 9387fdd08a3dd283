//! The embedded store on real files.

mod company;
mod crash;
mod damage;
mod expiry;
mod faults;
mod keys;
mod operations;

use std::path::Path;
use std::time::{Duration, Instant};

use super::*;
use crate::jobs::clock::Clock;
use crate::jobs::record::{Closing, Intent, IntentState, Job, JobState};
use crate::jobs::tests::records::*;
use crate::names::{BackendName, UserId};

fn open(path: &Path) -> SqliteStore {
    SqliteStore::open(path, settings()).unwrap()
}

fn forget(key: &str) -> Closing {
    Closing::Forget(key.into())
}

async fn all(tasks: impl Iterator<Item = impl Future<Output = ()>>) {
    futures_util::future::join_all(tasks).await;
}
