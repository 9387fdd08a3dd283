//! `check`: what a file means, in the words of the person who has to answer for it.

use std::fmt::Write;
use std::path::Path;
use std::process::ExitCode;

use super::{load, write_out};
use crate::config::{Warning, environment_warnings, mount_warning};
use crate::names::BackendName;
use crate::routing::decide::decide;
use crate::routing::table::{BaseUrl, Credential, Identity, InputKey, RoutingTable, Trusted};

/// Prints what the file means (exit code 0), or every problem it has (exit code 64).
pub fn run(path: &Path) -> ExitCode {
    match load(path) {
        Ok((table, mut warnings)) => {
            warnings.extend(environment_warnings(&table));
            warnings.extend(mount_warning(path));
            write_out(&summary(path, &table, &warnings))
        }
        Err(code) => code,
    }
}

fn summary(path: &Path, table: &RoutingTable, warnings: &[Warning]) -> String {
    let mut text = format!("{} is good.\n\n", path.display());
    text += &shares(table);
    text += &users(table);
    text += &backends(table);
    if !warnings.is_empty() {
        text.push('\n');
    }
    for warning in warnings {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "warning: {warning}");
    }
    text
}

/// Shows which share of which type starts where.
fn shares(table: &RoutingTable) -> String {
    if table.exports.is_empty() {
        return "No export type is taken over: everything goes to legacy.\n".to_owned();
    }
    let width = table.exports.keys().map(|kind| kind.as_str().len()).max().unwrap_or(0);
    let mut text = "New exports start here:\n".to_owned();
    for (kind, export) in &table.exports {
        let hundredths = if table.rollout.workers { export.share.hundredths() } else { 0 };
        let split = match hundredths {
            0 => "legacy   all users".to_owned(),
            10_000 => "workers  all users".to_owned(),
            share => format!("workers  {} % of users, legacy {} %", percent(share), percent(10_000 - share)),
        };
        let from = match &export.input_key {
            InputKey::Field(field) => format!("input_key from the client's {field}"),
            InputKey::Database(_) => "input_key from the user's database".to_owned(),
            InputKey::Url(_) => "input_key from legacy".to_owned(),
        };
        let _ = writeln!(text, "  {:width$}  {split}  ({from})", kind.as_str());
    }
    if !table.rollout.workers {
        text += "  The master switch, rollout.workers, is off.\n";
    }
    text
}

/// Shows who is treated apart from the shares.
fn users(table: &RoutingTable) -> String {
    let mut text = String::new();
    for (list, backend) in [("always_workers", BackendName::Workers), ("always_legacy", BackendName::Legacy)] {
        let count = table.rollout.pinned.values().filter(|pinned| **pinned == backend).count();
        let off = if table.rollout.workers || backend == BackendName::Legacy { "" } else { ", when the switch is on" };
        if count > 0 {
            let users = if count == 1 { "user is" } else { "users are" };
            let _ = writeln!(text, "  {count} {users} always on {backend} ({list}){off}.");
        }
    }
    text += &match &table.identity.default {
        None => "  Requests without a user stay on legacy.\n".to_owned(),
        Some(user) => {
            let on_workers = table
                .exports
                .iter()
                .filter(|(_, export)| decide(&table.rollout, export.share, Some(user)).backend == BackendName::Workers);
            let kinds: Vec<&str> = on_workers.map(|(kind, _)| kind.as_str()).collect();
            let kinds =
                if kinds.is_empty() { "legacy".to_owned() } else { format!("workers for {}", kinds.join(", ")) };
            format!("  Requests without a user are user `{user}`: {kinds}.\n")
        }
    };
    text + &identity(&table.identity)
}

/// Says who a user is, in the order it is read.
fn identity(identity: &Identity) -> String {
    let mut ways = Vec::new();
    if let Some(jwt) = &identity.jwt {
        let keys = if jwt.keys.count() == 1 { "key" } else { "keys" };
        let (header, claim, file) = (&jwt.header, &jwt.claim, jwt.file.display());
        ways.push(format!("the claim {claim} of the token in {header} ({} {keys} in {file})", jwt.keys.count()));
    }
    if let Some(cookie) = &identity.cookie {
        ways.push(format!("the cookie {cookie}"));
    }
    let header = &identity.header;
    let removed = match &identity.trusted {
        Trusted::Any => {
            ways.push(format!("what {header} says, whoever sends it"));
            String::new()
        }
        Trusted::Networks(networks) if networks.is_empty() => format!("  {header} from clients is removed.\n"),
        Trusted::Networks(networks) => {
            let networks: Vec<String> = networks.iter().map(ToString::to_string).collect();
            ways.push(format!("what {header} says, when it comes from {}", networks.join(", ")));
            String::new()
        }
    };
    if ways.is_empty() {
        ways.push("never known".to_owned());
    }
    format!("  The user is {}.\n{removed}", ways.join(", else "))
}

fn backends(table: &RoutingTable) -> String {
    let workers = &table.workers;
    let down = if workers.fallback { "starts go to legacy" } else { "starts fail with 503" };
    let open = table.circuit.open.as_secs_f64();
    format!(
        "\nEverything else goes to legacy.\n  legacy      {}\n  workers     {}\n  websockets  {}/api/jobs/…\n  \
         When workers are down, {down}; after {} failures in a row they are left alone for {open} s.\n",
        shown(&table.legacy.url),
        shown(&workers.backend.url),
        shown(&workers.websocket_base).replacen("http", "ws", 1),
        table.circuit.consecutive,
    ) + &workers.backend.credential.as_ref().map(credential).unwrap_or_default()
}

/// Says how the gateway proves itself, without a word of the proof.
fn credential(credential: &Credential) -> String {
    let hmac = credential.hmac.as_ref();
    let key = hmac.and_then(|hmac| hmac.key_id.as_ref()).map(|id| format!(" (key {id})")).unwrap_or_default();
    let ways = [
        credential.bearer.as_ref().map(|_| "a bearer token".to_owned()),
        credential.access.as_ref().map(|_| "a service token of Cloudflare Access".to_owned()),
        hmac.map(|_| format!("a signature{key}")),
    ];
    let ways: Vec<String> = ways.into_iter().flatten().collect();
    let mut text = format!("  The gateway shows workers {}.\n", ways.join(" and "));
    if credential.access.is_some() {
        text += "  RunPod has no service token: Cloudflare Access must let /api/jobs/*/do and /api/runpod/callback/* pass.\n";
    }
    text
}

fn shown(url: &BaseUrl) -> String {
    let scheme = if url.tls { "https" } else { "http" };
    format!("{scheme}://{}{}", url.authority, url.path)
}

/// Writes hundredths as a percentage, without needless zeros.
pub(super) fn percent(hundredths: u16) -> String {
    (f64::from(hundredths) / 100.0).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Source, load};

    #[test]
    fn a_good_file_is_summed_up() {
        let text = "[backends.legacy]\nurl = \"http://l:8000/\"\n[backends.workers]\nurl = \"https://w/base\"\nfallback = false\n\
            [rollout]\nworkers = true\npercent = 12.5\nalways_legacy = [\"bob\"]\n[exports.overlay]\npercent = 100\n[exports.framing]\n\
            [identity]\ntrusted = [\"10.0.0.0/8\"]\n";
        let source = Source { bytes: text.as_bytes(), name: "f", base_dir: Path::new("/") };
        let (table, warnings) = load(&source, &|_| None).expect("it is good");
        let text = summary(Path::new("f"), &table, &warnings);
        for expected in [
            "f is good.\n",
            "  framing  workers  12.5 % of users, legacy 87.5 %  (input_key from the user's database)\n",
            "  overlay  workers  all users  (input_key from the user's database)\n",
            "  1 user is always on legacy (always_legacy).\n",
            "  Requests without a user stay on legacy.\n",
            "when it comes from 10.0.0.0/8.\n",
            "  legacy      http://l:8000\n",
            "  websockets  wss://w/base/api/jobs/…\n",
            "When workers are down, starts fail with 503;",
        ] {
            assert!(text.contains(expected), "{expected}\n{text}");
        }
    }

    #[test]
    fn who_a_user_is_and_who_the_gateway_is_are_said() {
        let text = "[backends.legacy]\nurl = \"http://l\"\n[backends.workers]\nurl = \"https://w\"\n\
            credential = { hmac = \"${S}\", key_id = \"1\", access_client_id = \"${S}\", access_client_secret = \"${S}\" }\n\
            [identity]\ncookie = \"uid\"\njwt = { keys = \"k\" }\n";
        let source = Source { bytes: text.as_bytes(), name: "f", base_dir: Path::new("/") };
        let env = |name: &str| (name == "S").then(|| "hunter2".repeat(5));
        let (table, warnings) = load(&source, &env).expect("it is good");
        let text = summary(Path::new("f"), &table, &warnings);
        for expected in [
            "  The user is the claim sub of the token in authorization (0 keys in /k), else the cookie uid.\n",
            "  x-user-id from clients is removed.\n",
            "  The gateway shows workers a service token of Cloudflare Access and a signature (key 1).\n",
            "/api/runpod/callback/* pass.\n",
            "set websocket = \"gateway\"",
        ] {
            assert!(text.contains(expected), "{expected}\n{text}");
        }
        assert!(!text.contains("hunter2"));
    }
}
