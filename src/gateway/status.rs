//! A status poll: always to the backend that owns the job, whatever the file says now.

use http::{Request, StatusCode, header, request};
use hyper::body::Incoming;

use crate::exports::answer::{self, JobStatus};
use crate::gateway::attempt::{self, Seen, answer_bound, reply_from_legacy, reply_from_workers};
use crate::gateway::call::{self, Call, backend_target};
use crate::gateway::core::{Core, Gateway};
use crate::gateway::reply::Reply;
use crate::gateway::search::{self, Found};
use crate::http::body::{Reservation, Upload};
use crate::http::refusal::Refusal;
use crate::jobs::record::{Job, JobState};
use crate::limits;
use crate::names::{BackendName, ExportType, JobId};
use crate::routing::table::RoutingTable;
use crate::telemetry::record::Record;

/// Answers a status poll.
///
/// # Errors
/// A [`Refusal`] when the job is not the asker's, or its owner cannot answer now.
pub async fn answer(
    core: &Core,
    table: &RoutingTable,
    mut call: Call,
    export: Option<ExportType>,
    id: JobId,
    request: Request<Incoming>,
    record: &mut Record,
) -> Result<Reply, Refusal> {
    // A poll is a plain request, whatever it would like to become.
    call.head.websocket = false;
    record.job = Some(id.clone());
    record.export.clone_from(&export);
    let (parts, _) = request.into_parts();
    let known = core.gateway.jobs.find(&id).await.map_err(|error| {
        record.error = Some(error.line());
        OWNER_UNAVAILABLE
    })?;
    let job = match known {
        Some(job) => job,
        None => match search::find(core, table, &call, export.as_ref(), &id, &parts).await? {
            Found::Job(job) => job,
            Found::Nowhere(answer) => {
                record.backend = Some(BackendName::Legacy);
                return Ok(reply_from_legacy(answer.as_ref().clone()));
            }
        },
    };
    core.gateway.polls.note(&job.id);
    record.backend = Some(job.backend);
    if record.export.is_none() {
        record.export.clone_from(&job.export);
    }
    match job.backend {
        BackendName::Legacy => of_legacy(core, table, &call, export, &job, parts, record).await,
        BackendName::Workers => of_workers(core, table, &call, &job, parts, record).await,
    }
}

const OWNER_UNAVAILABLE: Refusal = Refusal::OwnerUnavailable { retry_after: limits::RETRY_AFTER };

/// Legacy is asked by its own, typed form; its answer goes on unchanged.
async fn of_legacy(
    core: &Core,
    table: &RoutingTable,
    call: &Call,
    asked: Option<ExportType>,
    job: &Job,
    mut parts: request::Parts,
    record: &mut Record,
) -> Result<Reply, Refusal> {
    if asked.is_none() {
        let export = job.export.as_ref().ok_or(Refusal::JobNotFound)?;
        let query = parts.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
        parts.uri = http::Uri::try_from(format!("/api/export/{export}/status/{}{query}", job.id))
            .map_err(|_| Refusal::BadRequest("The request target is not valid"))?;
    }
    call.address_to_legacy(&mut parts, table)?;
    without_body(&mut parts);
    let request = Request::from_parts(parts, Upload::Empty);
    let seen = ask(core, table, BackendName::Legacy, request).await;
    seen.note(record);
    let Seen::Answered(answer) = seen else { return Err(OWNER_UNAVAILABLE) };
    if answer.parts.status.is_success()
        && let Ok(status) = answer::read_status(&answer.body, &job.id)
    {
        observe(core, job, status);
    }
    Ok(reply_from_legacy(answer))
}

/// Workers know a job by its id alone; only the user who started it may see it.
async fn of_workers(
    core: &Core,
    table: &RoutingTable,
    call: &Call,
    job: &Job,
    parts: request::Parts,
    record: &mut Record,
) -> Result<Reply, Refusal> {
    if job.user.is_some() && job.user.as_ref() != call.user() {
        return Err(Refusal::JobNotFound);
    }
    let seen = ask_workers(core, table, call, &job.id, &parts).await?;
    seen.note(record);
    let Seen::Answered(answer) = seen else { return Err(OWNER_UNAVAILABLE) };
    match answer.parts.status {
        status if status.is_success() => match answer::read_status(&answer.body, &job.id) {
            Ok(status) => {
                observe(core, job, status);
                Ok(reply_from_workers(&answer.parts, answer.body))
            }
            Err(unusable) => {
                record.error = Some(unusable.to_string());
                Err(OWNER_UNAVAILABLE)
            }
        },
        // A Durable Object may take a moment to be found everywhere.
        StatusCode::NOT_FOUND if is_fresh(core, job) => Err(OWNER_UNAVAILABLE),
        StatusCode::NOT_FOUND => Err(Refusal::JobNotFound),
        status => {
            record.error = Some(format!("workers answered {status}"));
            Err(OWNER_UNAVAILABLE)
        }
    }
}

fn is_fresh(core: &Core, job: &Job) -> bool {
    let age_ms = core.gateway.clock.wall_ms().saturating_sub(job.started_ms);
    job.user.is_some() && u128::from(age_ms) < limits::FRESH_JOB.as_millis()
}

/// Asks workers for a job's status as the asker.
///
/// # Errors
/// A [`Refusal`] if no request can be made of it.
pub async fn ask_workers(
    core: &Core,
    table: &RoutingTable,
    call: &Call,
    id: &JobId,
    parts: &request::Parts,
) -> Result<Seen, Refusal> {
    let backend = &table.workers.backend;
    let mut headers = call.head_for_workers(&parts.headers, call.user(), table)?;
    headers.insert(header::ACCEPT, header::HeaderValue::from_static("application/json"));
    headers.insert(header::ACCEPT_ENCODING, attempt::IDENTITY);
    let request = call::get(backend, &format!("/api/export/status/{id}"), headers)?;
    Ok(ask(core, table, BackendName::Workers, request).await)
}

/// Asks legacy for a job's status under a type, as the asker.
///
/// # Errors
/// A [`Refusal`] if no request can be made of it.
pub async fn ask_legacy(
    core: &Core,
    table: &RoutingTable,
    call: &Call,
    export: &ExportType,
    id: &JobId,
    parts: &request::Parts,
) -> Result<Seen, Refusal> {
    let mut parts = parts.clone();
    call.address_to_legacy(&mut parts, table)?;
    without_body(&mut parts);
    parts.headers.insert(header::ACCEPT_ENCODING, attempt::IDENTITY);
    parts.uri = backend_target(&table.legacy.url, &format!("/api/export/{export}/status/{id}"))?;
    Ok(ask(core, table, BackendName::Legacy, Request::from_parts(parts, Upload::Empty)).await)
}

async fn ask(core: &Core, table: &RoutingTable, name: BackendName, request: Request<Upload>) -> Seen {
    let backend = match name {
        BackendName::Legacy => &table.legacy,
        BackendName::Workers => &table.workers.backend,
    };
    let mut held = Reservation::new(core.gateway.budget.clone());
    attempt::make(core, name, backend, request, backend.status_timeout, answer_bound(table), &mut held).await
}

/// A status poll has no body worth sending: its fields go, so that none is expected.
fn without_body(parts: &mut request::Parts) {
    for name in [header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::EXPECT, header::TRAILER] {
        parts.headers.remove(name);
    }
}

/// Returns the state that a status ends a job in; `None` while it is not over.
pub fn terminal(status: JobStatus) -> Option<JobState> {
    match status {
        JobStatus::Open => None,
        JobStatus::Complete => Some(JobState::Complete),
        JobStatus::Error => Some(JobState::Error),
    }
}

/// Counts how a job ended, the first time that it is seen.
pub fn note_outcome(gateway: &Gateway, job: &Job, state: JobState) {
    let (metrics, backend, export) = (gateway.metrics.clone(), job.backend, job.export.clone());
    gateway.jobs.observe(job, state, move || {
        let export = export.as_ref().map_or("unknown", ExportType::as_str);
        metrics.job_outcomes.with_label_values(&[backend.as_str(), export, state.as_str()]).inc();
    });
}

fn observe(core: &Core, job: &Job, status: JobStatus) {
    if let Some(state) = terminal(status) {
        note_outcome(&core.gateway, job, state);
    }
}
