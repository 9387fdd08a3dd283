//! `diff`: who would move if one file took another's place.

use std::fmt::Write;
use std::io::BufRead;
use std::path::Path;
use std::process::ExitCode;

use super::check::percent;
use super::{DiffArgs, load, write_out};
use crate::names::{BackendName, ExportType, UserId};
use crate::routing::bucket::bucket;
use crate::routing::decide::decide;
use crate::routing::table::{RoutingTable, Share};

/// Users that are named one by one for a type; the rest is counted.
const NAMED: usize = 20;

/// Prints the difference between two files for each export type; with a list of users, who of them would move.
pub fn run(args: &DiffArgs) -> ExitCode {
    let (old, new) = match (load(&args.old), load(&args.new)) {
        (Ok((old, _)), Ok((new, _))) => (old, new),
        (Err(code), _) | (_, Err(code)) => return code,
    };
    let users = match args.users.as_deref().map(read_users).transpose() {
        Ok(users) => users,
        Err(error) => {
            let text = format!("cannot read the list of users: {error}\n");
            // Standard error may be closed; the exit code still tells.
            let _ = std::io::Write::write_all(&mut std::io::stderr().lock(), text.as_bytes());
            return ExitCode::FAILURE;
        }
    };
    write_out(&words(&old, &new, users.as_deref()))
}

/// One user a line; blank lines are passed over.
fn read_users(path: &Path) -> std::io::Result<Vec<UserId>> {
    let file = std::io::BufReader::new(std::fs::File::open(path)?);
    let mut users = Vec::new();
    for line in file.lines() {
        users.extend(UserId::from_text(line?.trim()));
    }
    Ok(users)
}

fn words(old: &RoutingTable, new: &RoutingTable, users: Option<&[UserId]>) -> String {
    let mut types: Vec<&ExportType> = old.exports.keys().chain(new.exports.keys()).collect();
    types.sort_unstable();
    types.dedup();
    let mut text = String::new();
    if old.rollout.salt != new.rollout.salt {
        text += "The salt changes: every user gets a new place.\n\n";
    }
    for kind in types {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{kind}: {} -> {}", share(old, kind), share(new, kind));
        match users {
            Some(users) => text += &moved(old, new, kind, users),
            None => text += &buckets(old, new, kind),
        }
    }
    if text.is_empty() {
        text += "Neither file takes an export type over: nobody moves.\n";
    }
    text + "\nJobs that run stay where they are.\n"
}

fn share(table: &RoutingTable, kind: &ExportType) -> String {
    match table.exports.get(kind) {
        None => "not taken over".to_owned(),
        Some(_) if !table.rollout.workers => "switched off".to_owned(),
        Some(export) => format!("{} % on workers", percent(export.share.hundredths())),
    }
}

/// Says which share of all users moves, as far as that can be told without knowing them.
fn buckets(old: &RoutingTable, new: &RoutingTable, kind: &ExportType) -> String {
    let taken = |table: &RoutingTable| match table.exports.get(kind) {
        Some(export) if table.rollout.workers => export.share.hundredths(),
        _ => 0,
    };
    let (before, after) = (taken(old), taken(new));
    let mut text = String::new();
    let _ = match (before, after) {
        _ if old.rollout.salt != new.rollout.salt && before.max(after) > 0 => {
            writeln!(text, "  who moves depends on the users: give --users")
        }
        _ if before == after => writeln!(text, "  no bucket moves"),
        _ if after > before => writeln!(
            text,
            "  buckets {before} to {} move to workers: {} % of users",
            after - 1,
            percent(after - before)
        ),
        _ => {
            writeln!(text, "  buckets {after} to {} move to legacy: {} % of users", before - 1, percent(before - after))
        }
    };
    for (user, home) in pins(new) {
        if pins(old).all(|(other, place)| (other, place) != (user, home)) {
            let _ = writeln!(text, "  {user} is pinned to {home}");
        }
    }
    for (user, _) in pins(old) {
        if !new.rollout.pinned.contains_key(user) {
            let _ = writeln!(text, "  {user} is no longer pinned");
        }
    }
    text
}

fn pins(table: &RoutingTable) -> impl Iterator<Item = (&UserId, BackendName)> {
    let mut pins: Vec<_> = table.rollout.pinned.iter().map(|(user, home)| (user, *home)).collect();
    pins.sort_unstable();
    pins.into_iter()
}

fn moved(old: &RoutingTable, new: &RoutingTable, kind: &ExportType, users: &[UserId]) -> String {
    let mut text = String::new();
    for home in [BackendName::Workers, BackendName::Legacy] {
        let movers: Vec<&UserId> =
            users.iter().filter(|user| place(new, kind, user) == home && place(old, kind, user) != home).collect();
        let _ = write!(text, "  to {home}: {} of {}", movers.len(), users.len());
        for user in movers.iter().take(NAMED) {
            let _ = write!(text, "{}{user} (bucket {})", separator(&text), bucket(&new.rollout.salt, user));
        }
        let rest = movers.len().saturating_sub(NAMED);
        if rest > 0 {
            let _ = write!(text, " and {rest} more");
        }
        text.push('\n');
    }
    text
}

fn separator(text: &str) -> &'static str {
    if text.ends_with(|last: char| last.is_ascii_digit()) { ": " } else { ", " }
}

fn place(table: &RoutingTable, kind: &ExportType, user: &UserId) -> BackendName {
    let share = table.exports.get(kind).map_or(Share::default(), |export| export.share);
    match table.exports.get(kind) {
        Some(_) => decide(&table.rollout, share, Some(user)).backend,
        None => BackendName::Legacy,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Source, load};

    fn table(rollout: &str) -> RoutingTable {
        let text = format!(
            "[backends.legacy]\nurl = \"http://l\"\n[backends.workers]\nurl = \"http://w\"\n[rollout]\n{rollout}\n[exports.overlay]\n"
        );
        let source = Source { bytes: text.as_bytes(), name: "t", base_dir: Path::new("/tmp") };
        load(&source, &|_| None).unwrap_or_else(|problems| panic!("{problems:?}")).0
    }

    #[test]
    fn a_growing_share_moves_its_buckets() {
        let text = words(&table("workers = true\npercent = 5"), &table("workers = true\npercent = 25"), None);
        assert!(text.contains("overlay: 5 % on workers -> 25 % on workers"), "{text}");
        assert!(text.contains("buckets 500 to 2499 move to workers: 20 % of users"), "{text}");
    }

    #[test]
    fn users_are_counted_and_named() {
        let users: Vec<UserId> = (0..100).filter_map(|n| UserId::from_text(&format!("user-{n}"))).collect();
        let (old, new) = (table("workers = true\npercent = 0"), table("workers = true\npercent = 50"));
        let there = words(&old, &new, Some(&users));
        let moves = users.iter().filter(|user| bucket("exports", user) < 5000).count();
        assert!(there.contains(&format!("to workers: {moves} of 100: ")), "{there}");
        assert!(there.contains(&format!("and {} more", moves - NAMED)), "{there}");
        assert!(there.contains("to legacy: 0 of 100\n"), "{there}");
        let back = words(&new, &table("workers = false"), Some(&users));
        assert!(back.contains(&format!("to legacy: {moves} of 100: ")), "{back}");
    }

    #[test]
    fn pins_are_told() {
        let old = table("workers = true\nalways_workers = [\"ann\"]");
        let text = words(&old, &table("workers = true\nalways_legacy = [\"bob\"]"), None);
        assert!(text.contains("bob is pinned to legacy") && text.contains("ann is no longer pinned"), "{text}");
    }
}
