//! The operations on records, each about one key.

use std::sync::Arc;

use redis::{RedisError, Value};

use super::connect::millis;
use super::context::{Care, Context};
use super::records::{self, Held};
use super::scripts::{self, eval};
use crate::jobs::record::{Closing, Intent, Job, JobState, Kept};
use crate::jobs::store::{Cause, StoreError};
use crate::limits;
use crate::names::{BackendName, ExportType, JobId, UserId};

/// Records a start unless its key has another one; returns that one.
pub(super) async fn claim(context: &Arc<Context>, intent: Intent) -> Result<Option<Intent>, StoreError> {
    let key = context.keys.intent(&intent.key);
    // The key of a start without a client's key is made anew for each, and so can be its own token.
    let token = intent.claim.as_ref().map_or(&intent.key, |claim| &claim.token);
    let keep_ms = context.intent_ms(intent.claim.is_some(), intent.started_ms, intent.deadline_ms);
    let mut command = eval(scripts::CLAIM, &key);
    command.arg(&**token).arg(keep_ms);
    records::add_intent(&mut command, &intent, token);
    list(context, &context.keys.open_intents(), intent.started_ms, &intent.key);
    // A claim that may have been written is not freed here: its start may still go to legacy, under this very key.
    let reply = context.write(&key, &command, Care::Durable).await?;
    let mut parts: Vec<Value> = read(reply)?;
    match (parts.first(), parts.len()) {
        (Some(Value::Int(1)), _) => Ok(None),
        (Some(Value::Int(0)), 2) => match records::intent(&intent.key, parts.remove(1), context.clock.wall_ms()) {
            Held::Intent(holder) => Ok(Some(*holder)),
            Held::Nothing | Held::Unreadable => Err(StoreError::NotWritten(Cause::KeyBusy)),
        },
        _ => Err(StoreError::NotWritten(Cause::NoIntent)),
    }
}

/// Keeps an answer that names no job, unless another gateway has taken the start over.
pub(super) async fn keep(context: &Arc<Context>, kept: &Kept) -> Result<(), StoreError> {
    keep_for(context, kept, scripts::OWN).await
}

async fn keep_for(context: &Arc<Context>, kept: &Kept, whose: &str) -> Result<(), StoreError> {
    let key = context.keys.intent(&kept.key);
    not_taken(context.write(&key, &keep_command(&key, kept, whose), Care::Durable).await?)?;
    unlist(context, &context.keys.open_intents(), &kept.key);
    Ok(())
}

fn keep_command(key: &str, kept: &Kept, whose: &str) -> redis::Cmd {
    let mut command = eval(scripts::KEEP, key);
    command.arg(&*kept.token).arg(kept.answer.status).arg(&kept.answer.body[..]).arg(whose);
    if let Some(content_type) = &kept.answer.content_type {
        command.arg(&**content_type);
    }
    command
}

pub(super) async fn release(context: &Arc<Context>, key: &str, token: &str) -> Result<(), StoreError> {
    let name = context.keys.intent(key);
    not_taken(context.write(&name, &release_command(&name, token, scripts::OWN), Care::Durable).await?)?;
    unlist(context, &context.keys.open_intents(), key);
    Ok(())
}

fn release_command(name: &str, token: &str, whose: &str) -> redis::Cmd {
    let mut command = eval(scripts::RELEASE, name);
    command.arg(token).arg(millis(limits::REDIS_GRAVE)).arg(whose);
    command
}

/// Reads what a script says that leaves alone what another gateway has taken over.
fn not_taken(reply: Value) -> Result<(), StoreError> {
    let said: i64 = read(reply)?;
    if said < 0 { Err(StoreError::NotWritten(Cause::NoIntent)) } else { Ok(()) }
}

fn free_later(context: &Arc<Context>, key: &str, whose: &str) {
    let name = context.keys.intent(key);
    let command = release_command(&name, key, whose);
    context.later(name, command, Care::Durable);
    unlist(context, &context.keys.open_intents(), key);
}

/// Deletes an intent whose key is its own token.
pub(super) async fn close_intent(context: &Arc<Context>, key: &str) -> Result<(), StoreError> {
    release(context, key, key).await
}

pub(super) fn close_intent_later(context: &Arc<Context>, key: &str) {
    free_later(context, key, scripts::OWN);
}

pub(super) async fn move_intent(
    context: &Arc<Context>,
    key: &str,
    to: BackendName,
    deadline_ms: u64,
) -> Result<(), StoreError> {
    let name = context.keys.intent(key);
    let mut command = eval(scripts::MOVE, &name);
    command.arg(to.as_str()).arg(deadline_ms).arg(context.until(deadline_ms));
    let moved: bool = read(context.write(&name, &command, Care::Durable).await?)?;
    if moved { Ok(()) } else { Err(StoreError::NotWritten(Cause::NoIntent)) }
}

pub(super) async fn mark_unknown(context: &Arc<Context>, key: &str) -> Result<(), StoreError> {
    let name = context.keys.intent(key);
    context.write(&name, &eval(scripts::UNKNOWN, &name), Care::Durable).await.map(|_| ())
}

/// Records a job, and when that is done closes its intent: that is another key, and what is not done of it is tried
/// until it is. The job is safe then, which is what the answer says.
pub(super) async fn put_job(context: &Arc<Context>, job: Job, closing: Option<Closing>) -> Result<(), StoreError> {
    let key = context.keys.job(&job.id);
    let mut command = eval(scripts::PUT_JOB, &key);
    command
        .arg(job.backend.as_str())
        .arg(job.export.as_ref().map_or("", ExportType::as_str))
        .arg(job.user.as_ref().map_or("", UserId::as_str))
        .arg(job.started_ms)
        .arg(job.state.as_str())
        .arg(context.job_ms(job.started_ms));
    if job.state == JobState::Open {
        // At the same time as the record, which decides whether it is to stay there.
        list(context, &context.keys.open_jobs(job.backend), job.started_ms, job.id.as_str());
    }
    let reply = context.write(&key, &command, Care::Durable).await?;
    let (written, before, state): (bool, String, String) = read(reply)?;
    let is_open = state == JobState::Open.as_str();
    let before = BackendName::parse(&before);
    if written {
        before.into_iter().for_each(|backend| context.add_open(backend, -1));
        if is_open {
            context.add_open(job.backend, 1);
        }
    }
    if let Some(other) = before.filter(|backend| written && *backend != job.backend) {
        unlist(context, &context.keys.open_jobs(other), job.id.as_str());
    }
    if job.state == JobState::Open && (!is_open || (!written && before != Some(job.backend))) {
        unlist(context, &context.keys.open_jobs(job.backend), job.id.as_str());
    }
    match closing {
        None => {}
        // A mark stays: a claim that was sent twice may arrive once more.
        Some(Closing::Forget(key)) => free_later(context, &key, scripts::ANY),
        Some(Closing::Keep(kept)) => {
            if let Err(error) = keep_for(context, &kept, scripts::ANY).await {
                tracing::warn!(job = %job.id, error = error.line(), "an answer is not kept for its key yet");
                let name = context.keys.intent(&kept.key);
                let command = keep_command(&name, &kept, scripts::ANY);
                context.later(name, command, Care::Durable);
                unlist(context, &context.keys.open_intents(), &kept.key);
            }
        }
    }
    Ok(())
}

/// Ends a job; `true` if it was this call, known by its token, that did.
pub(super) async fn finish_job(
    context: &Arc<Context>,
    id: &JobId,
    state: JobState,
    token: &str,
) -> Result<bool, StoreError> {
    if state == JobState::Open {
        return Ok(false);
    }
    let key = context.keys.job(id);
    let mut command = eval(scripts::FINISH, &key);
    command.arg(state.as_str()).arg(token);
    let (first, backend): (bool, String) = read(context.write(&key, &command, Care::Durable).await?)?;
    if let Some(backend) = BackendName::parse(&backend) {
        context.add_open(backend, -1);
        unlist(context, &context.keys.open_jobs(backend), id.as_str());
    }
    Ok(first)
}

pub(super) async fn job(context: &Arc<Context>, id: &JobId) -> Result<Option<Job>, StoreError> {
    let value = context.read(&records::read_job_fields(&context.keys.job(id))).await?;
    Ok(records::job(id, value))
}

pub(super) async fn intent(context: &Arc<Context>, key: &str) -> Result<Option<Intent>, StoreError> {
    intent_at(context, key, context.clock.wall_ms()).await
}

/// Reads an intent as of a time.
pub(super) async fn intent_at(context: &Arc<Context>, key: &str, now_ms: u64) -> Result<Option<Intent>, StoreError> {
    let value = context.read(&eval(scripts::READ_INTENT, &context.keys.intent(key))).await?;
    Ok(records::intent(key, value, now_ms).intent())
}

pub(super) async fn lead(context: &Arc<Context>) -> Result<bool, StoreError> {
    let key = context.keys.lease();
    let mut command = eval(scripts::LEASE, &key);
    command.arg(&*context.run).arg(millis(limits::REDIS_LEASE));
    read(context.write(&key, &command, Care::Light).await?)
}

/// Gives the lease up, so that another gateway need not wait for its end.
pub(super) async fn resign(context: &Arc<Context>) -> Result<(), StoreError> {
    let key = context.keys.lease();
    let mut command = eval(scripts::RESIGN, &key);
    command.arg(&*context.run);
    context.write(&key, &command, Care::Light).await.map(|_| ())
}

/// Adds something to an index, some time soon.
pub(super) fn list(context: &Arc<Context>, index: &str, at_ms: u64, member: &str) {
    let mut command = redis::cmd("ZADD");
    command.arg(index).arg(at_ms).arg(member);
    context.later(index.to_owned(), command, Care::Light);
}

/// Removes something from an index, some time soon.
pub(super) fn unlist(context: &Arc<Context>, index: &str, member: &str) {
    let mut command = redis::cmd("ZREM");
    command.arg(index).arg(member);
    context.later(index.to_owned(), command, Care::Light);
}

/// Reads a reply. One of another form means that somebody else's script has run, or none.
pub(super) fn read<T: redis::FromRedisValue>(value: Value) -> Result<T, StoreError> {
    redis::from_redis_value(value).map_err(|error| StoreError::MaybeWritten(Cause::from(RedisError::from(error))))
}
