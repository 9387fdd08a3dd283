//! The lists of what is open, read through the records: where an entry and its record disagree, the entry goes.

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream;

use super::connect::millis;
use super::context::{Care, Context};
use super::ops::{self, read, unlist};
use super::records;
use super::scripts::{self, eval};
use crate::jobs::record::{Intent, IntentState, Job, JobState};
use crate::jobs::store::StoreError;
use crate::limits;
use crate::names::{BackendName, JobId};

/// An entry of an index, and when it began.
type Entry = (String, u64);

/// Reads open jobs, oldest first.
pub(super) async fn open_jobs(
    context: &Arc<Context>,
    backend: Option<BackendName>,
    limit: usize,
) -> Result<Vec<Job>, StoreError> {
    let mut jobs = Vec::new();
    for name in BackendName::ALL.into_iter().filter(|name| backend.is_none_or(|backend| backend == *name)) {
        let index = context.keys.open_jobs(name);
        let mut pages = Pages::new(&index, limit);
        while let Some(page) = pages.next(context).await? {
            let records = stream::iter(page)
                .map(|entry| async { job_of(context, &index, name, entry).await })
                .buffered(limits::REDIS_BATCH);
            jobs.extend(gather(records).await?);
            if jobs.len() >= limit {
                break;
            }
        }
    }
    jobs.sort_by_key(|job: &Job| job.started_ms);
    jobs.truncate(limit);
    Ok(jobs)
}

async fn job_of(
    context: &Arc<Context>,
    index: &str,
    backend: BackendName,
    (member, at_ms): Entry,
) -> Result<Option<Job>, StoreError> {
    let Ok(id) = JobId::parse(&member) else {
        unlist(context, index, &member);
        return Ok(None);
    };
    let job = ops::job(context, &id).await?;
    let is_there = job.is_some();
    let open = job.filter(|job| job.state == JobState::Open && job.backend == backend);
    if open.is_none() && (is_there || is_stale(context, at_ms)) {
        unlist(context, index, &member);
    }
    Ok(open)
}

/// Reads intents that are running or unknown, oldest first.
pub(super) async fn open_intents(
    context: &Arc<Context>,
    backend: Option<BackendName>,
    limit: usize,
) -> Result<Vec<Intent>, StoreError> {
    let index = context.keys.open_intents();
    let mut pages = Pages::new(&index, limit);
    let mut intents = Vec::new();
    while let Some(page) = pages.next(context).await? {
        let records = stream::iter(page)
            .map(|entry| async { intent_of(context, &index, entry).await })
            .buffered(limits::REDIS_BATCH);
        let open = gather(records).await?;
        intents.extend(open.into_iter().filter(|intent| backend.is_none_or(|backend| backend == intent.backend)));
        if intents.len() >= limit {
            break;
        }
    }
    intents.truncate(limit);
    Ok(intents)
}

async fn intent_of(context: &Arc<Context>, index: &str, (member, at_ms): Entry) -> Result<Option<Intent>, StoreError> {
    let intent = ops::intent(context, &member).await?;
    let is_there = intent.is_some();
    let open = intent.filter(|intent| intent.state != IntentState::Answered);
    if open.is_none() && (is_there || is_stale(context, at_ms)) {
        unlist(context, index, &member);
    }
    Ok(open)
}

/// Takes over starts that workers may be asked for again: those that nobody waits for any more, since their deadline
/// has passed. From then on they are this gateway's for [`limits::REDIS_ASKED`].
pub(super) async fn adopt_open(context: &Arc<Context>, limit: usize) -> Result<Vec<Intent>, StoreError> {
    let index = context.keys.open_intents();
    let mut pages = Pages::new(&index, limit);
    let mut adopted = Vec::new();
    while let Some(page) = pages.next(context).await? {
        for (member, _) in page {
            let key = context.keys.intent(&member);
            let now_ms = context.clock.wall_ms();
            let mut command = eval(scripts::ADOPT, &key);
            command.arg(&*context.run).arg(now_ms).arg(now_ms + millis(limits::REDIS_ASKED));
            match context.write(&key, &command, Care::Durable).await {
                Ok(redis::Value::Nil) => {}
                Ok(value) => adopted.extend(records::intent(&member, value, now_ms).intent()),
                Err(
                    StoreError::NotWritten(cause) | StoreError::MaybeWritten(cause) | StoreError::Unavailable(cause),
                ) => return Err(StoreError::Unavailable(cause)),
            }
            if adopted.len() >= limit {
                return Ok(adopted);
            }
        }
    }
    Ok(adopted)
}

/// Counts the entries of the indexes of open jobs, in the order of [`BackendName::ALL`].
pub(super) async fn counts(context: &Context) -> Result<[i64; 2], StoreError> {
    let mut counts = [0; 2];
    for (place, backend) in BackendName::ALL.into_iter().enumerate() {
        let mut command = redis::cmd("ZCARD");
        command.arg(context.keys.open_jobs(backend));
        counts[place] = read(context.read(&command).await?)?;
    }
    Ok(counts)
}

/// Says whether an entry without a record has had time enough to get one.
fn is_stale(context: &Context, at_ms: u64) -> bool {
    context.clock.wall_ms().saturating_sub(at_ms) >= millis(limits::REDIS_STALE)
}

async fn gather<T>(records: impl stream::Stream<Item = Result<Option<T>, StoreError>>) -> Result<Vec<T>, StoreError> {
    let all: Vec<_> = records.collect().await;
    all.into_iter().filter_map(Result::transpose).collect()
}

/// Goes through an index from its oldest entry on, a page at a time, up to [`limits::REDIS_SCANNED`].
struct Pages<'a> {
    index: &'a str,
    size: usize,
    at: usize,
}

impl Pages<'_> {
    fn new(index: &str, limit: usize) -> Pages<'_> {
        Pages { index, size: limit.clamp(1, limits::LISTED), at: 0 }
    }

    async fn next(&mut self, context: &Context) -> Result<Option<Vec<Entry>>, StoreError> {
        if self.at >= limits::REDIS_SCANNED {
            return Ok(None);
        }
        let mut command = redis::cmd("ZRANGE");
        command.arg(self.index).arg(self.at).arg(self.at + self.size - 1).arg("WITHSCORES");
        // Scores are doubles; what is removed meanwhile moves entries up, and they come with the next look.
        let page: Vec<(String, f64)> = read(context.read(&command).await?)?;
        self.at += self.size;
        let page: Vec<Entry> = page.into_iter().map(|(member, score)| (member, score as u64)).collect();
        Ok(Some(page).filter(|page| !page.is_empty()))
    }
}
