//! The first table of the failure rules, row by row, through [`outcome`](super::outcome) and [`step`](super::step).

use std::collections::BTreeSet;

use http::StatusCode;
use proptest::prelude::*;

use super::outcome::*;
use super::step::*;

const DECLINED: [u16; 4] = [404, 405, 429, 503];
const FALLBACK: Policy = Policy { fallback: true, idempotent: false, keyed: false };
const ALONE: Policy = Policy { fallback: false, ..FALLBACK };
const IDEMPOTENT: Policy = Policy { idempotent: true, ..FALLBACK };
const ACCEPTED: &str = r#"{"job_id":"j","status":"processing"}"#;
const FAILED: &str = r#"{"job_id":"j","status":"error","error":"RunPod"}"#;
const EDGE: &str = "<title>Error 1101</title>";

fn answered(status: u16, body: &str) -> Attempt<'_> {
    Attempt::Answered { status: StatusCode::from_u16(status).unwrap(), body: body.as_bytes() }
}

fn broken(how: Broken, status: Option<u16>) -> Attempt<'static> {
    Attempt::Broken { how, status: status.map(|status| StatusCode::from_u16(status).unwrap()) }
}

fn judge(attempt: Attempt<'_>, declined: &[u16], credential: bool) -> Outcome {
    let declined: BTreeSet<u16> = declined.iter().copied().collect();
    judge_workers(attempt, Rules { declined: &declined, credential })
}

fn shown(step: &Step) -> String {
    match step {
        Step::Complete(job) => format!("complete {job}"),
        Step::PassAnswer(None) => "pass".into(),
        Step::PassAnswer(Some(job)) => format!("pass {job}"),
        Step::FallBack(fallback) => format!("legacy {}", fallback.cause()),
        Step::AskAgain(_) => "again".into(),
        Step::Refuse(refusal) => format!("{} {}", refusal.status().as_u16(), refusal.code()),
    }
}

/// Everything that follows from an attempt under the shipped file: outcome, circuit, step.
fn verdict(attempt: Attempt<'_>, declined: &[u16], credential: bool) -> (&'static str, Counted, String) {
    let outcome = judge(attempt, declined, credential);
    (outcome.as_str(), counts_for_circuit(&outcome), shown(&next(outcome, FALLBACK)))
}

#[test]
fn nothing_was_sent() {
    use Counted::{Failure, Not};
    let cases = [
        (NotSent::CircuitOpen, Not, "legacy circuit_open"),
        (NotSent::LookupFailed, Not, "legacy lookup_failed"),
        (NotSent::StoreUnavailable, Not, "legacy store_unavailable"),
        (NotSent::Dns, Failure, "legacy dns"),
        (NotSent::Unreachable, Failure, "legacy unreachable"),
        (NotSent::ConnectTimeout, Failure, "legacy connect_timeout"),
        (NotSent::Tls, Failure, "legacy tls"),
        (NotSent::HandedBack, Not, "legacy handed_back"),
        (NotSent::StreamRefused, Not, "legacy stream_refused"),
    ];
    assert_eq!(cases.map(|(why, _, _)| why), NotSent::ALL);
    for (why, counted, step) in cases {
        let attempt = Attempt::NotSent(why);
        assert_eq!(verdict(attempt, &DECLINED, false), ("not_sent", counted, step.into()));
        let store = why == NotSent::StoreUnavailable;
        let alone = if store { "503 store_unavailable" } else { "503 no_backend" };
        assert_eq!(shown(&next(judge(attempt, &DECLINED, false), ALONE)), alone);
        // Under the client's key nothing is sent that is not recorded.
        let keyed = if store { "503 store_unavailable" } else { step };
        assert_eq!(shown(&next(judge(attempt, &DECLINED, false), Policy { keyed: true, ..FALLBACK })), keyed);
    }
}

/// Status, body; outcome, what it counts as, what is done then.
const ANSWERS: &[(u16, &str, &str, Counted, &str)] = &[
    (200, ACCEPTED, "accepted", Counted::Success, "complete j"),
    (202, ACCEPTED, "accepted", Counted::Success, "complete j"),
    (200, FAILED, "accepted", Counted::Success, "complete j"),
    (200, "", "unknown", Counted::Failure, "502 start_outcome_unknown"),
    (204, "", "unknown", Counted::Failure, "502 start_outcome_unknown"),
    (200, "<html>ok</html>", "unknown", Counted::Failure, "502 start_outcome_unknown"),
    (200, r#"{"status":"processing"}"#, "unknown", Counted::Failure, "502 start_outcome_unknown"),
    (200, r#"{"job_id":"../../x"}"#, "unknown", Counted::Failure, "502 start_outcome_unknown"),
    (200, r#"{"job_id":12}"#, "unknown", Counted::Failure, "502 start_outcome_unknown"),
    (200, r#"{"job_id":"a","job_id":"b"}"#, "unknown", Counted::Failure, "502 start_outcome_unknown"),
    // Edge errors 1101 and 1102, whatever their status and form.
    (200, EDGE, "unknown", Counted::Failure, "502 start_outcome_unknown"),
    (404, EDGE, "unknown", Counted::Failure, "502 start_outcome_unknown"),
    (405, "error code: 1102", "unknown", Counted::Failure, "502 start_outcome_unknown"),
    (429, r#"{"error_code":1101}"#, "unknown", Counted::Failure, "502 start_outcome_unknown"),
    (400, r#"{"error_code":1102}"#, "unknown", Counted::Failure, "502 start_outcome_unknown"),
    (403, EDGE, "unknown", Counted::Failure, "502 start_outcome_unknown"),
    (500, "error code: 1101", "unknown", Counted::Failure, "500 start_outcome_unknown"),
    (503, r#"{"error_code":1102}"#, "unknown", Counted::Failure, "503 start_outcome_unknown"),
    (
        500,
        r#"{"job_id":"j","status":"error","error_code":1101}"#,
        "unknown",
        Counted::Failure,
        "500 start_outcome_unknown",
    ),
    // Declined: 404, 405 and 429 whatever the body, 503 in the Worker's own words.
    (404, r#"{"error":"not found"}"#, "declined", Counted::Not, "legacy declined_404"),
    (404, "", "declined", Counted::Not, "legacy declined_404"),
    (404, "<html>", "declined", Counted::Not, "legacy declined_404"),
    (404, ACCEPTED, "declined", Counted::Not, "legacy declined_404"),
    (405, "", "declined", Counted::Not, "legacy declined_405"),
    (429, "", "declined", Counted::Failure, "legacy declined_429"),
    (429, "error code: 1015", "declined", Counted::Failure, "legacy declined_429"),
    (429, "<h1>Error 1027</h1>", "declined", Counted::Failure, "legacy declined_429"),
    (429, r#"{"error_code":1015}"#, "declined", Counted::Failure, "legacy declined_429"),
    (503, r#"{"error":"overloaded"}"#, "declined", Counted::Failure, "legacy declined_503"),
    (503, "", "unknown", Counted::Failure, "503 start_outcome_unknown"),
    (503, "<html>busy</html>", "unknown", Counted::Failure, "503 start_outcome_unknown"),
    (503, "\"busy\"", "unknown", Counted::Failure, "503 start_outcome_unknown"),
    (503, r#"{"error_code":1015}"#, "unknown", Counted::Failure, "503 start_outcome_unknown"),
    (503, r#"{"error":"cut"#, "unknown", Counted::Failure, "503 start_outcome_unknown"),
    // The request's own fault.
    (400, r#"{"error":"x"}"#, "rejected", Counted::Success, "pass"),
    (401, "", "rejected", Counted::Success, "pass"),
    (402, "", "rejected", Counted::Success, "pass"),
    (403, "error code: 1020", "rejected", Counted::Success, "pass"),
    (408, "", "rejected", Counted::Success, "pass"),
    (409, "", "rejected", Counted::Success, "pass"),
    (413, "", "rejected", Counted::Success, "pass"),
    (415, "", "rejected", Counted::Success, "pass"),
    (418, "", "rejected", Counted::Success, "pass"),
    (422, r#"{"detail":"Error 1101"}"#, "rejected", Counted::Success, "pass"),
    (499, "", "rejected", Counted::Success, "pass"),
    (500, FAILED, "rejected", Counted::Success, "pass j"),
    // Everything else.
    (500, r#"{"error":"x"}"#, "unknown", Counted::Failure, "500 start_outcome_unknown"),
    (500, ACCEPTED, "unknown", Counted::Failure, "500 start_outcome_unknown"),
    (500, r#"{"job_id":"../x","status":"error"}"#, "unknown", Counted::Failure, "500 start_outcome_unknown"),
    (500, r#"{"status":"error"}"#, "unknown", Counted::Failure, "500 start_outcome_unknown"),
    (502, FAILED, "unknown", Counted::Failure, "502 start_outcome_unknown"),
    (101, "", "unknown", Counted::Failure, "502 start_outcome_unknown"),
    (300, "", "unknown", Counted::Failure, "502 start_outcome_unknown"),
    (301, "", "unknown", Counted::Failure, "502 start_outcome_unknown"),
    (304, "", "unknown", Counted::Failure, "502 start_outcome_unknown"),
    (307, ACCEPTED, "unknown", Counted::Failure, "502 start_outcome_unknown"),
    (501, "", "unknown", Counted::Failure, "501 start_outcome_unknown"),
    (504, "", "unknown", Counted::Failure, "504 start_outcome_unknown"),
    (520, "error code: 520", "unknown", Counted::Failure, "520 start_outcome_unknown"),
    (526, "", "unknown", Counted::Failure, "526 start_outcome_unknown"),
    (530, "error code: 1016", "unknown", Counted::Failure, "530 start_outcome_unknown"),
    (999, "", "unknown", Counted::Failure, "502 start_outcome_unknown"),
];

#[test]
fn workers_answered() {
    for (status, body, word, counted, step) in ANSWERS {
        let expected = (*word, *counted, (*step).into());
        assert_eq!(verdict(answered(*status, body), &DECLINED, false), expected, "{status} {body}");
    }
    let deep = format!(r#"{{"job_id":"j","x":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    let expected = ("unknown", Counted::Failure, "502 start_outcome_unknown".into());
    assert_eq!(verdict(answered(200, &deep), &DECLINED, false), expected);
}

#[test]
fn the_gateways_own_credential_is_not_the_clients_fault() {
    for (status, step) in [(401, "legacy declined_401"), (403, "legacy declined_403")] {
        let outcome = judge(answered(status, "{}"), &DECLINED, true);
        assert!(matches!(&outcome, Outcome::Declined(declined) if declined.is_credential()));
        assert_eq!(counts_for_circuit(&outcome), Counted::Failure);
        assert_eq!(shown(&next(outcome, FALLBACK)), step);
        assert_eq!(shown(&next(judge(answered(status, "{}"), &DECLINED, true), ALONE)), "503 no_backend");
        assert_eq!(judge(answered(status, EDGE), &DECLINED, true).as_str(), "unknown");
    }
    assert_eq!(judge(answered(400, "{}"), &DECLINED, true).as_str(), "rejected");
}

#[test]
fn the_file_says_what_declines() {
    let all: Vec<u16> = (100..=999).collect();
    let cases: &[(&[u16], u16, &str, &str)] = &[
        (&[], 404, "{}", "rejected"),
        (&[], 405, "{}", "rejected"),
        (&[], 429, "{}", "rejected"),
        (&[], 503, r#"{"error":"overloaded"}"#, "unknown"),
        (&[502], 502, "<html>", "declined"),
        (&[522], 522, "error code: 522", "declined"),
        (&[403], 403, "", "declined"),
        (&[422], 422, "{}", "declined"),
        (&[502], 502, EDGE, "unknown"),
        (&[500], 500, r#"{"error":"x"}"#, "declined"),
        (&[500], 500, FAILED, "rejected"),
        (&all, 200, "", "unknown"),
        (&all, 200, ACCEPTED, "accepted"),
        (&all, 302, "", "unknown"),
        (&all, 101, "", "unknown"),
        (&all, 503, "<html>", "unknown"),
    ];
    for (declined, status, body, word) in cases {
        assert_eq!(judge(answered(*status, body), declined, false).as_str(), *word, "{declined:?} {status} {body}");
    }
    let outcome = judge(answered(502, ""), &[502], false);
    assert_eq!(counts_for_circuit(&outcome), Counted::Failure);
    assert_eq!(shown(&next(outcome, FALLBACK)), "legacy declined");
}

#[test]
fn whatever_broke_is_unknown() {
    for how in Broken::ALL {
        let none = if how == Broken::Timeout { "504 start_outcome_unknown" } else { "502 start_outcome_unknown" };
        for (status, step) in
            [(None, none), (Some(200), none), (Some(404), none), (Some(503), "503 start_outcome_unknown")]
        {
            let expected = ("unknown", Counted::Failure, step.to_owned());
            assert_eq!(verdict(broken(how, status), &DECLINED, true), expected, "{how:?} {status:?}");
        }
    }
}

#[test]
fn a_lost_owner_is_a_500_and_never_asked_again() {
    assert_eq!(counts_for_circuit(&Outcome::owner_lost()), Counted::Failure);
    for policy in [FALLBACK, ALONE, IDEMPOTENT] {
        assert_eq!(shown(&next(Outcome::owner_lost(), policy)), "500 start_outcome_unknown");
    }
}

#[test]
fn an_idempotent_worker_is_asked_once_more() {
    let again = |attempt: Attempt<'_>, first: Attempt<'_>| {
        let Step::AskAgain(unknown) = next(judge(first, &DECLINED, false), IDEMPOTENT) else {
            panic!("not asked again")
        };
        let declined = BTreeSet::from(DECLINED);
        let outcome = unknown.after_second(judge_workers(attempt, Rules { declined: &declined, credential: false }));
        (outcome.as_str(), shown(&next(outcome, IDEMPOTENT)))
    };
    let timeout = broken(Broken::Timeout, None);
    let cases = [
        (answered(200, ACCEPTED), "accepted", "complete j"),
        (answered(500, FAILED), "rejected", "pass j"),
        // None of these says what became of the first attempt.
        (answered(404, "{}"), "unknown", "504 start_outcome_unknown"),
        (answered(429, "{}"), "unknown", "504 start_outcome_unknown"),
        (answered(503, "{}"), "unknown", "503 start_outcome_unknown"),
        (answered(409, "{}"), "unknown", "504 start_outcome_unknown"),
        (answered(422, "{}"), "unknown", "504 start_outcome_unknown"),
        (answered(520, ""), "unknown", "520 start_outcome_unknown"),
        (answered(200, ""), "unknown", "504 start_outcome_unknown"),
        (broken(Broken::Closed, None), "unknown", "504 start_outcome_unknown"),
        (Attempt::NotSent(NotSent::Unreachable), "unknown", "504 start_outcome_unknown"),
        (Attempt::NotSent(NotSent::CircuitOpen), "unknown", "504 start_outcome_unknown"),
    ];
    for (attempt, word, step) in cases {
        assert_eq!(again(attempt, timeout), (word, step.to_owned()), "{attempt:?}");
    }
    assert_eq!(again(answered(404, "{}"), answered(522, "")), ("unknown", "522 start_outcome_unknown".into()));
}

#[test]
fn starts_on_legacy() {
    let rows: &[(Attempt<'_>, &str, Remembered, &str)] = &[
        (answered(200, ACCEPTED), "accepted", Remembered::Answer, "pass j"),
        (answered(201, "{}"), "accepted", Remembered::Answer, "pass"),
        (answered(200, r#"{"job_id":"../x"}"#), "accepted", Remembered::Answer, "pass"),
        (answered(204, ""), "accepted", Remembered::Answer, "pass"),
        (answered(400, r#"{"detail":"No working video found"}"#), "rejected", Remembered::Answer, "pass"),
        (answered(404, ""), "rejected", Remembered::Answer, "pass"),
        (answered(422, "{}"), "rejected", Remembered::Answer, "pass"),
        (answered(307, ""), "unknown", Remembered::Unknown, "pass"),
        (answered(500, FAILED), "unknown", Remembered::Unknown, "pass"),
        (answered(503, "{}"), "unknown", Remembered::Unknown, "pass"),
        (broken(Broken::Write, None), "unknown", Remembered::Unknown, "502 start_outcome_unknown"),
        (broken(Broken::Closed, None), "unknown", Remembered::Unknown, "502 start_outcome_unknown"),
        (broken(Broken::Timeout, None), "unknown", Remembered::Unknown, "504 start_outcome_unknown"),
        (broken(Broken::Cut, Some(200)), "unknown", Remembered::Unknown, "502 start_outcome_unknown"),
    ];
    let shown = |step: LegacyStep| match step {
        LegacyStep::PassAnswer(None) => "pass".to_owned(),
        LegacyStep::PassAnswer(Some(job)) => format!("pass {job}"),
        LegacyStep::Refuse(refusal) => format!("{} {}", refusal.status().as_u16(), refusal.code()),
    };
    for (attempt, word, remembered, step) in rows {
        let outcome = judge_legacy(*attempt);
        assert_eq!((outcome.as_str(), outcome.remembered()), (*word, *remembered), "{attempt:?}");
        assert_eq!(shown(next_on_legacy(outcome)), *step, "{attempt:?}");
    }
    for why in NotSent::ALL {
        let outcome = judge_legacy(Attempt::NotSent(why));
        assert_eq!((outcome.as_str(), outcome.remembered()), ("not_sent", Remembered::Nothing));
        let code = if why == NotSent::StoreUnavailable { "503 store_unavailable" } else { "503 no_backend" };
        assert_eq!(shown(next_on_legacy(outcome)), code);
    }
}

#[test]
fn another_try_is_advised_only_where_nothing_was_started() {
    assert!(StartRefusal::NoBackend.retry_after().is_some());
    assert!(StartRefusal::StoreUnavailable.retry_after().is_some());
    assert_eq!(StartRefusal::OutcomeUnknown(StatusCode::BAD_GATEWAY).retry_after(), None);
}

prop_compose! {
    fn any_body()(
        text in prop_oneof![
            Just(ACCEPTED.to_owned()), Just(FAILED.to_owned()), Just(EDGE.to_owned()), Just("{}".to_owned()),
            Just("error code: 1015".to_owned()), Just(r#"{"error_code":1102}"#.to_owned()), ".{0,20}",
        ],
    ) -> String { text }
}

proptest! {
    #[test]
    fn only_what_excludes_a_job_falls_back(
        status in 100u16..=999, body in any_body(), declined in prop::collection::btree_set(100u16..=999, 0..300),
        credential: bool, idempotent: bool, keyed: bool,
    ) {
        let rules = Rules { declined: &declined, credential };
        let outcome = judge_workers(answered(status, &body), rules);
        let (word, counted, remembered) = (outcome.as_str(), counts_for_circuit(&outcome), outcome.remembered());
        let edge = body.contains("1101") || body.contains("1102");
        match next(outcome, Policy { fallback: true, idempotent, keyed }) {
            Step::FallBack(_) => {
                prop_assert_eq!(word, "declined");
                prop_assert!(status >= 400 && !edge);
                prop_assert!(declined.contains(&status) || credential && matches!(status, 401 | 403));
                prop_assert_eq!(remembered, Remembered::Nothing);
            }
            Step::Refuse(refusal) => {
                prop_assert_eq!((word, counted, remembered), ("unknown", Counted::Failure, Remembered::Unknown));
                prop_assert!((500..=599).contains(&refusal.status().as_u16()));
                prop_assert!(!idempotent);
            }
            Step::AskAgain(unknown) => {
                prop_assert!(idempotent && word == "unknown");
                let outcome = unknown.after_second(judge_workers(answered(status, &body), rules));
                prop_assert!(!matches!(next(outcome, IDEMPOTENT), Step::FallBack(_) | Step::AskAgain(_)));
            }
            Step::Complete(_) => prop_assert_eq!(word, "accepted"),
            Step::PassAnswer(_) => prop_assert_eq!(word, "rejected"),
        }
    }

    #[test]
    fn what_broke_never_falls_back(
        how in prop::sample::select(&Broken::ALL[..]), status in prop::option::of(100u16..=999),
        declined in prop::collection::btree_set(100u16..=999, 0..300), credential: bool, idempotent: bool, keyed: bool,
    ) {
        let outcome = judge_workers(broken(how, status), Rules { declined: &declined, credential });
        prop_assert_eq!(outcome.as_str(), "unknown");
        let step = next(outcome, Policy { fallback: true, idempotent, keyed });
        prop_assert!(matches!(step, Step::Refuse(StartRefusal::OutcomeUnknown(_)) | Step::AskAgain(_)));
    }
}
