//! `explain`: where a start would go, and why.

use std::process::ExitCode;

use serde_json::json;

use super::check::percent;
use super::{EXIT_CONFIG, ExplainArgs, write_out};
use crate::names::{BackendName, UserId};
use crate::routing::decide::{Decision, Reason, decide};
use crate::routing::table::{Export, RoutingTable};

/// Prints the decision for one user and type; exit code 64 for a type that is not in the file.
pub fn run(table: &RoutingTable, args: &ExplainArgs) -> ExitCode {
    let Some(export) = table.exports.get(args.export.as_str()) else {
        let known: Vec<&str> = table.exports.keys().map(|kind| kind.as_str()).collect();
        let text = format!(
            "`{}` is not an export type of this file ({}): its requests go to legacy, untouched.\n",
            args.export.escape_default(),
            known.join(", ")
        );
        let _ = write_out(&text);
        return ExitCode::from(EXIT_CONFIG);
    };
    let user = match &args.user {
        Some(text) => UserId::from_text(text).or_else(|| table.identity.default.clone()),
        None => table.identity.default.clone(),
    };
    let decision = decide(&table.rollout, export.share, user.as_ref());
    let text = if args.json {
        let because = because(table, export, &decision, &args.export);
        let answer = json!({
            "type": args.export,
            "user": user.as_ref().map(UserId::as_str),
            "backend": decision.backend.as_str(),
            "reason": decision.reason.as_str(),
            "bucket": decision.bucket,
            "threshold": export.share.hundredths(),
            "because": because,
            "config_hash": table.hash,
        });
        format!("{answer}\n")
    } else {
        words(table, export, &decision, user.as_ref(), args)
    };
    write_out(&text)
}

fn words(
    table: &RoutingTable,
    export: &Export,
    decision: &Decision,
    user: Option<&UserId>,
    args: &ExplainArgs,
) -> String {
    let who = match (user, args.user.as_deref()) {
        (None, _) => "a request without a user".to_owned(),
        (Some(user), None) => format!("a request without a user (it counts as `{user}`)"),
        (Some(user), Some(written)) if written == user.as_str() => format!("user `{user}`"),
        (Some(user), Some(written)) => format!("user `{}`, read as `{user}`,", written.escape_debug()),
    };
    let because = because(table, export, decision, &args.export);
    let (kind, backend, reason) = (&args.export, decision.backend, decision.reason.as_str());
    let note = match (backend, table.workers.fallback) {
        (BackendName::Workers, true) => "\nShould workers be down then, or decline it, it starts on legacy.\n",
        (BackendName::Workers, false) => "\nShould workers be down then, it fails: fallback is off.\n",
        (BackendName::Legacy, _) => "",
    };
    format!("{backend}\n\nThe next {kind} export of {who} starts on {backend} ({reason}):\n{because}.\n{note}")
}

/// Says why, as a sentence without its full stop.
fn because(table: &RoutingTable, export: &Export, decision: &Decision, kind: &str) -> String {
    match (decision.reason, decision.bucket) {
        (Reason::SwitchOff, _) => "rollout.workers is false".to_owned(),
        (Reason::Anonymous, _) => "nobody knows who asks, and there is no identity.default".to_owned(),
        (Reason::AlwaysLegacy, _) => "the user is in rollout.always_legacy".to_owned(),
        (Reason::AlwaysWorkers, _) => "the user is in rollout.always_workers".to_owned(),
        (_, Some(bucket)) => {
            let threshold = export.share.hundredths();
            let taken = match threshold {
                0 => "no bucket".to_owned(),
                threshold => format!("buckets 0 to {}", threshold - 1),
            };
            let in_at = match bucket {
                bucket if bucket < threshold => String::new(),
                bucket => format!(", and gets in at {} %", percent(bucket + 1)),
            };
            let (share, salt) = (percent(threshold), &table.rollout.salt);
            format!("{kind} is at {share} %, which takes {taken}; with the salt {salt:?} this user has {bucket}{in_at}")
        }
        (reason, None) => reason.as_str().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Source, load};

    fn explained(rollout: &str, user: Option<&str>) -> String {
        let urls = "[backends.legacy]\nurl = \"http://l\"\n[backends.workers]\nurl = \"http://w\"\n[exports.overlay]\n";
        let text = format!("{urls}[rollout]\n{rollout}\n");
        let source = Source { bytes: text.as_bytes(), name: "f", base_dir: std::path::Path::new("/") };
        let (table, _) = load(&source, &|_| None).expect("it is good");
        let args = ExplainArgs {
            user: user.map(str::to_owned),
            export: "overlay".to_owned(),
            anonymous: user.is_none(),
            json: false,
        };
        let export = &table.exports["overlay"];
        let user = user.and_then(UserId::from_text);
        let decision = decide(&table.rollout, export.share, user.as_ref());
        words(&table, export, &decision, user.as_ref(), &args)
    }

    #[test]
    fn every_reason_has_its_words() {
        let cases = [
            ("workers = false", Some("ann"), "legacy\n", "(switch_off):\nrollout.workers is false."),
            ("workers = true", None, "legacy\n", "of a request without a user starts on legacy (anonymous):"),
            ("workers = true\nalways_legacy = [\"ann\"]", Some("ann"), "legacy\n", "(always_legacy):"),
            ("workers = true\nalways_workers = [\"ann\"]", Some("ann"), "workers\n", "(always_workers):"),
            ("workers = true", Some("ann"), "legacy\n", "overlay is at 0 %, which takes no bucket; with the salt"),
            ("workers = true\npercent = 100", Some("ann"), "workers\n", "which takes buckets 0 to 9999; with the salt"),
            ("workers = true\npercent = 100", Some("a.n"), "workers\n", "of user `a.n`, read as `an`, starts"),
        ];
        for (rollout, user, backend, expected) in cases {
            let text = explained(rollout, user);
            assert!(text.starts_with(backend) && text.contains(expected), "{rollout}: {text}");
        }
        assert!(explained("workers = true\npercent = 0.01", Some("ann")).contains(", and gets in at "));
    }
}
