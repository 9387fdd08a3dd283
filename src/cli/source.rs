//! A job store as the command line reads it: a file beside whatever gateway writes to it, or a Redis.

use std::path::{Path, PathBuf};

use rusqlite::Connection;
use tokio::runtime::Runtime;

use super::jobs::Failure;
use crate::jobs::Settings;
use crate::jobs::clock::Clock;
use crate::jobs::record::{Intent, Job};
use crate::jobs::redis::RedisStore;
use crate::jobs::sqlite::{intents, rows, schema};
use crate::jobs::store::StoreError;
use crate::limits;
use crate::names::{BackendName, JobId};
use crate::routing::table::StoreLocation;

/// What is open: jobs, starts, and how many jobs there are of each backend.
pub(super) type Open = (Vec<Job>, Vec<Intent>, [i64; 2]);

/// A store that can be read.
pub(super) enum Source {
    /// A file.
    File(PathBuf, Connection),
    /// A Redis, with a runtime to wait on.
    Redis(String, Box<RedisStore>, Runtime),
}

impl Source {
    /// Opens a store for reading; `None` when no gateway has made the file yet.
    pub(super) fn open(location: &StoreLocation) -> Result<Option<Source>, Failure> {
        match location {
            StoreLocation::File(path) if matches!(path.try_exists(), Ok(false)) => Ok(None),
            StoreLocation::File(path) => {
                let conn = schema::open_for_reading(path).map_err(|source| unreadable(path, source))?;
                Ok(Some(Source::File(path.clone(), conn)))
            }
            StoreLocation::Redis { location, .. } => {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                // Nothing is written but what mends an index: how long records are kept plays no part.
                let settings = Settings { keep: limits::LOST_JOB, key_keep: limits::LOST_JOB, clock: Clock::system() };
                let store = RedisStore::open(location, 0, settings);
                match store.health() {
                    Ok(()) => Ok(Some(Source::Redis(location.to_string(), Box::new(store), runtime))),
                    Err(cause) => Err(Failure::Sentence(format!("cannot read the job store {cause}"))),
                }
            }
        }
    }

    /// Reads one job.
    pub(super) fn job(&self, id: &JobId) -> Result<Option<Job>, Failure> {
        match self {
            Source::File(path, conn) => rows::job(conn, id).map_err(|source| unreadable(path, source)),
            Source::Redis(name, store, runtime) => {
                runtime.block_on(store.job(id)).map_err(|error| failed(name, &error))
            }
        }
    }

    /// Reads what is open, at most [`limits::LISTED`] of each kind.
    pub(super) fn open_things(&self, backend: Option<BackendName>, now_ms: u64) -> Result<Open, Failure> {
        match self {
            Source::File(path, conn) => {
                let read = || {
                    let jobs = rows::open_jobs(conn, backend, limits::LISTED)?;
                    let open = intents::open_intents(conn, backend, limits::LISTED, now_ms)?;
                    Ok((jobs, open, rows::open_counts(conn)?))
                };
                read().map_err(|source| unreadable(path, source))
            }
            Source::Redis(name, store, runtime) => {
                let read = async {
                    let jobs = store.open_jobs(backend, limits::LISTED).await?;
                    let open = store.open_intents(backend, limits::LISTED).await?;
                    Ok((jobs, open, store.open_counts().await?))
                };
                runtime.block_on(read).map_err(|error| failed(name, &error))
            }
        }
    }
}

/// Says where a store is, without what is secret.
pub(super) fn name_of(location: &StoreLocation) -> String {
    match location {
        StoreLocation::File(path) => path.display().to_string(),
        StoreLocation::Redis { location, .. } => location.to_string(),
    }
}

pub(super) fn unreadable(path: &Path, source: rusqlite::Error) -> Failure {
    Failure::Store { path: path.display().to_string(), source }
}

fn failed(name: &str, error: &StoreError) -> Failure {
    Failure::Sentence(format!("cannot read the job store {name}: {}", error.line()))
}
