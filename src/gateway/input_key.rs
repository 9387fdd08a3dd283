//! The look-up of `input_key` at legacy, for a gateway that cannot see its database.

use http::{StatusCode, header, request};

use crate::gateway::attempt::{self, Seen, answer_bound};
use crate::gateway::call::{self, Call};
use crate::gateway::core::Core;
use crate::http::body::Reservation;
use crate::jobs::input_key::{LookupError, LookupFailure, key_from_answer};
use crate::names::BackendName;
use crate::routing::table::{RoutingTable, UrlLookup};

/// Asks legacy as the client would: with its cookies, its `Authorization`, its identity.
///
/// # Errors
/// [`LookupError::Missing`] for legacy's 404, [`LookupError::Failed`] for whatever gives no key.
pub async fn ask_legacy(
    core: &Core,
    table: &RoutingTable,
    call: &Call,
    parts: &request::Parts,
    lookup: &UrlLookup,
    project: i64,
) -> Result<String, LookupError> {
    let failed = |what: String| LookupError::Failed(LookupFailure::Asked(what));
    let mut head = parts.clone();
    call.address_to_legacy(&mut head, table).map_err(|refusal| failed(refusal.code().to_owned()))?;
    for name in [
        header::CONTENT_LENGTH,
        header::CONTENT_TYPE,
        header::CONTENT_ENCODING,
        header::TRANSFER_ENCODING,
        header::EXPECT,
        header::TRAILER,
    ] {
        head.headers.remove(name);
    }
    head.headers.insert(header::ACCEPT_ENCODING, attempt::IDENTITY);
    let path = lookup.path.replace("{project_id}", &project.to_string());
    let mut request =
        call::get(&table.legacy, &path, head.headers).map_err(|refusal| failed(refusal.code().to_owned()))?;
    *request.extensions_mut() = head.extensions;
    let bound = answer_bound(table);
    let mut held = Reservation::new(core.gateway.budget.clone());
    let limit = table.legacy.status_timeout;
    match attempt::make(core, BackendName::Legacy, &table.legacy, request, limit, bound, &mut held).await {
        Seen::Answered(answer) => match answer.parts.status {
            StatusCode::OK => key_from_answer(lookup, &answer.body),
            StatusCode::NOT_FOUND => Err(LookupError::Missing),
            other => Err(failed(format!("legacy answered {other}"))),
        },
        Seen::NotSent { why, .. } => Err(failed(why.as_str().to_owned())),
        Seen::Broken { error, .. } => Err(failed(error)),
    }
}
