//! A start under a client's `Idempotency-Key`: it happens once, and its answer is given as often as it is asked for.
//!
//! What a second start gets is decided in [`crate::jobs::idempotency`]. The key is looked up before anything else is
//! done, and claimed when the intent is written: of many starts at once one gets it, the others find it taken.

use http::StatusCode;
use http::header::{self, HeaderMap, HeaderValue};

use crate::exports::{answer, websocket_url};
use crate::gateway::reply::{Content, Reply};
use crate::gateway::start::store::note_store;
use crate::gateway::start::{NOT_SENT, Start};
use crate::http::headers::{IDEMPOTENCY_KEY, IDEMPOTENT_REPLAYED};
use crate::http::refusal::Refusal;
use crate::jobs::idempotency::{self, ClientKey, Verdict};
use crate::jobs::record::{Claim, Intent, JobState, Kept, KeptAnswer};
use crate::jobs::store::StoreError;
use crate::names::{BackendName, JobId};
use crate::telemetry::record::Record;

/// Reads the client's key, if it sent one.
///
/// # Errors
/// [`Refusal::BadIdempotencyKey`] for several, or for what is no key.
pub(super) fn read(headers: &HeaderMap) -> Result<Option<ClientKey>, Refusal> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(only), None) => ClientKey::parse(only.as_bytes()).map(Some).ok_or(Refusal::BadIdempotencyKey),
        (Some(_), Some(_)) => Err(Refusal::BadIdempotencyKey),
    }
}

impl Start<'_> {
    /// Puts the start under a client's key.
    pub(super) fn put_under(&mut self, client_key: &ClientKey) {
        let token = Box::from(&*self.core.fresh_id());
        self.key = client_key.scoped(self.call.user(), &self.export).into();
        self.claim = Some(Claim { token, body: idempotency::hash(&self.body) });
    }

    /// Finds the start that has the key.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: nothing is known.
    pub(super) async fn look(&self, record: &mut Record) -> Result<Option<Intent>, StoreError> {
        self.core.gateway.jobs.look(&self.key).await.inspect_err(|error| {
            note_store(record, error, "key not looked up");
            record.outcome = Some(NOT_SENT);
        })
    }

    /// Answers a start whose key another start has.
    ///
    /// # Errors
    /// A [`Refusal`] when there is no answer to give again, or this is not the same request.
    pub(super) fn answer_by_key(&self, holder: &Intent, record: &mut Record) -> Result<Reply, Refusal> {
        let (word, result) = match idempotency::judge(holder, &self.body_hash()) {
            Verdict::Replay(kept) => {
                record.job = answer::read_start(&kept.body).ok().map(|named| named.job);
                ("replayed", Ok(replay(kept)))
            }
            Verdict::Running => ("in_progress", Err(Refusal::StartInProgress)),
            Verdict::Unknown => ("still_unknown", Err(Refusal::StartStillUnknown)),
            Verdict::OtherBody => ("key_reused", Err(Refusal::KeyReused)),
        };
        record.backend = Some(holder.backend);
        // Nothing was decided for this request.
        (record.decision, record.reason, record.bucket) = (None, None, None);
        record.outcome = Some(word);
        self.count(record, word);
        result
    }

    fn body_hash(&self) -> [u8; 32] {
        self.claim.as_ref().map_or_else(|| idempotency::hash(&self.body), |claim| claim.body)
    }

    /// Says what is kept of the answer for the client's key; `None`: nothing.
    pub(super) fn kept(&self, job: Option<(&JobId, JobState)>, backend: BackendName) -> Option<Kept> {
        let (claim, reply) = (self.claim.as_ref()?, self.reply.as_ref()?);
        let body = match &reply.content {
            Content::Full(Some(body)) => body.clone(),
            Content::Full(None) | Content::Empty | Content::Stream(_) => bytes::Bytes::new(),
        };
        let content_type = reply.head.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let url = match (job, backend) {
            (Some((id, JobState::Open)), BackendName::Workers) => {
                Some(websocket_url::websocket_url(&self.table.workers.websocket_base, id))
            }
            _ => None,
        };
        let answer = idempotency::keep(reply.head.status.as_u16(), content_type, &body, job, url.as_deref())?;
        Some(Kept { key: Box::from(&*self.key), token: claim.token.clone(), answer })
    }
}

/// Makes the answer that was given before: status, content type and body.
fn replay(kept: &KeptAnswer) -> Reply {
    let status = StatusCode::from_u16(kept.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut reply = Reply::own(status, "", kept.body.clone());
    let headers = &mut reply.head.headers;
    headers.remove(header::CONTENT_TYPE);
    if let Some(value) = kept.content_type.as_deref().and_then(|text| HeaderValue::from_str(text).ok()) {
        headers.insert(header::CONTENT_TYPE, value);
    }
    headers.insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
    reply
}
