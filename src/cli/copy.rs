//! `jobs copy`: every record of one store into another, whatever kinds they are. Nothing is removed, and nothing that is
//! newer there is overwritten, so that it may be repeated: before and after the gateways have changed over.

use std::future::Future;
use std::io::{self, Write};
use std::process::ExitCode;

use futures_util::{StreamExt, stream};

use super::jobs::{Failure, finish};
use super::source::{name_of, unreadable};
use crate::config;
use crate::jobs::clock::Clock;
use crate::jobs::record::{Claim, Intent, IntentState, Job, Kept};
use crate::jobs::sqlite::{intents, rows, schema};
use crate::jobs::store::{Store, StoreError};
use crate::jobs::{Jobs, Settings};
use crate::limits;
use crate::routing::table::{RoutingTable, StoreLocation};

/// Copies a store; what is not named is the store of the configuration.
pub(super) fn run(table: &RoutingTable, from: Option<&str>, to: Option<&str>) -> ExitCode {
    finish(copy(&mut io::stdout().lock(), table, from, to))
}

/// How many records of a kind there are, and what became of them.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Tally {
    copied: usize,
    there: usize,
    unreadable: usize,
}

fn copy(out: &mut impl Write, table: &RoutingTable, from: Option<&str>, to: Option<&str>) -> Result<(), Failure> {
    let from = location(table, from)?;
    let to = location(table, to)?;
    if from.is_same_place(&to) {
        return Err(Failure::Sentence(format!("{} is both stores: name the other one", name_of(&from))));
    }
    if let StoreLocation::File(path) = &from
        && !path.is_file()
    {
        return Err(Failure::Sentence(format!("there is no job store {}", path.display())));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let target = open(table, &to)?;
    let (jobs, intents) = runtime.block_on(async {
        let tallies = match &from {
            StoreLocation::File(path) => from_file(path, target.store()).await,
            StoreLocation::Redis { .. } => from_redis(open(table, &from)?.store(), target.store()).await,
        }?;
        target.close().await.map_err(|error| failed("write to", &to, &error))?;
        Ok::<_, Failure>(tallies)
    })?;
    writeln!(out, "from {} to {}", name_of(&from), name_of(&to))?;
    for (what, tally) in [("jobs", jobs), ("starts", intents)] {
        let Tally { copied, there, unreadable } = tally;
        writeln!(out, "{what}: {copied} copied, {there} there already, {unreadable} that cannot be read")?;
    }
    Ok(())
}

fn location(table: &RoutingTable, text: Option<&str>) -> Result<StoreLocation, Failure> {
    let Some(text) = text else { return Ok(table.fixed.store.clone()) };
    config::parse_store(text).map_err(|mistake| Failure::Sentence(format!("the store that is named {mistake}")))
}

fn open(table: &RoutingTable, location: &StoreLocation) -> Result<Jobs, Failure> {
    let settings = Settings { keep: table.jobs.keep, key_keep: table.jobs.key_keep, clock: Clock::system() };
    let jobs = Jobs::open(location, settings).map_err(|held| Failure::Sentence(held.to_string()))?;
    match jobs.health() {
        Ok(()) => Ok(jobs),
        Err(cause) => Err(Failure::Sentence(format!("cannot use the job store {}: {cause}", name_of(location)))),
    }
}

fn failed(what: &str, location: &StoreLocation, error: &StoreError) -> Failure {
    Failure::Sentence(format!("cannot {what} the job store {}: {}", name_of(location), error.line()))
}

async fn from_file(path: &std::path::Path, target: &Store) -> Result<(Tally, Tally), Failure> {
    let conn = schema::open_for_reading(path).map_err(|source| unreadable(path, source))?;
    let mut tallies = (Tally::default(), Tally::default());
    let mut after = 0;
    loop {
        let page = rows::jobs_after(&conn, after, limits::LISTED).map_err(|source| unreadable(path, source))?;
        let Some((last, _)) = page.last() else { break };
        after = *last;
        all(page.into_iter().map(|(_, job)| put_job(target, job)), &mut tallies.0).await?;
    }
    after = 0;
    loop {
        let page = intents::intents_after(&conn, after, limits::LISTED).map_err(|source| unreadable(path, source))?;
        let Some((last, _)) = page.last() else { break };
        after = *last;
        all(page.into_iter().map(|(_, intent)| put_intent(target, intent)), &mut tallies.1).await?;
    }
    Ok(tallies)
}

async fn from_redis(source: &Store, target: &Store) -> Result<(Tally, Tally), Failure> {
    let Store::Redis(source) = source else { return Ok(Default::default()) };
    let (ids, keys) = source.all().await.map_err(unread)?;
    let mut tallies = (Tally::default(), Tally::default());
    let jobs = ids.iter().map(async |id| put_job(target, source.job(id).await.map_err(unread)?).await);
    all(jobs, &mut tallies.0).await?;
    let intents =
        keys.iter().map(async |key| put_intent(target, source.intent_as_written(key).await.map_err(unread)?).await);
    all(intents, &mut tallies.1).await?;
    Ok(tallies)
}

fn unread(error: StoreError) -> Failure {
    Failure::Sentence(format!("cannot read the job store: {}", error.line()))
}

fn unwritten(error: StoreError) -> Failure {
    Failure::Sentence(format!("cannot write to the job store: {}", error.line()))
}

/// What became of one record.
enum Fate {
    Copied,
    There,
    Unreadable,
}

async fn all(
    copies: impl Iterator<Item = impl Future<Output = Result<Fate, Failure>>>,
    tally: &mut Tally,
) -> Result<(), Failure> {
    let mut copies = stream::iter(copies).buffer_unordered(limits::REDIS_BATCH);
    while let Some(fate) = copies.next().await {
        match fate? {
            Fate::Copied => tally.copied += 1,
            Fate::There => tally.there += 1,
            Fate::Unreadable => tally.unreadable += 1,
        }
    }
    Ok(())
}

async fn put_job(target: &Store, job: Option<Job>) -> Result<Fate, Failure> {
    let Some(job) = job else { return Ok(Fate::Unreadable) };
    let is_there = target.job(&job.id).await.map_err(unread)?.is_some();
    // A record of a user replaces a found one, and a job that is over does not open again: the store sees to that.
    target.put_job(job, None).await.map_err(unwritten)?;
    Ok(if is_there { Fate::There } else { Fate::Copied })
}

/// Copies a start: as one that begins, then what has become of it. One that is there already is left as it is, but for
/// the answer of this very start.
async fn put_intent(target: &Store, intent: Option<Intent>) -> Result<Fate, Failure> {
    let Some(intent) = intent else { return Ok(Fate::Unreadable) };
    let (key, state, answer, claim) = (intent.key.clone(), intent.state, intent.answer.clone(), intent.claim.clone());
    let begun = Intent { state: IntentState::Running, answer: None, ..intent };
    // Asked before: to the store a start that comes again under its own token is the same write.
    let is_there = target.intent(&key).await.map_err(unread)?.is_some();
    let is_there = target.claim(begun).await.map_err(unwritten)?.is_some() || is_there;
    match (state, claim.zip(answer)) {
        (IntentState::Answered, Some((Claim { token, .. }, answer))) => {
            target.keep_answer(Kept { key, token, answer }).await.map_err(unwritten)?;
        }
        (IntentState::Unknown, _) if !is_there => target.mark_unknown(&key).await.map_err(unwritten)?,
        _ => {}
    }
    Ok(if is_there { Fate::There } else { Fate::Copied })
}
