//! Files that the configuration names: token keys, secrets, certificates. A changed one is live like an edit of the configuration; one
//! that is no good changes nothing.

use std::sync::Arc;
use std::time::Instant;

use super::Reloader;
use crate::config::{Contents, attach};
use crate::limits;
use crate::routing::table::RoutingTable;

/// What the files were last seen to hold.
#[derive(Debug, Default)]
pub(super) struct Attached {
    /// What serves, or was refused; `None` before the first look.
    judged: Option<Contents>,
    /// What waits for a second, equal read: a secret cut short cannot be told from a secret.
    pending: Option<(Contents, Instant)>,
}

impl Attached {
    /// Notes what a new table was made with.
    pub(super) fn judged(&mut self, contents: Contents) {
        *self = Attached { judged: Some(contents), pending: None };
    }
}

impl Reloader {
    /// Looks at the files once; returns when to look again for them to settle.
    pub(super) fn look_at_attached(&mut self) -> Option<Instant> {
        let serving = self.table.load_full();
        let began = Instant::now();
        let contents = Contents::read(&serving);
        if contents.is_empty() || self.attached.judged.as_ref() == Some(&contents) {
            self.attached.pending = None;
            return None;
        }
        let waiting = self.attached.pending.take().filter(|(seen, _)| *seen == contents);
        let since = waiting.as_ref().map_or_else(Instant::now, |(_, since)| *since);
        let settles = since + limits::CONFIG_SETTLE;
        if waiting.is_none() || began < settles {
            self.attached.pending = Some((contents, since));
            return Some(settles);
        }
        let first = self.attached.judged.is_none();
        let mut table = RoutingTable::clone(&serving);
        let attached = attach(&mut table, &contents, Some(&serving), &self.path.display().to_string());
        self.attached.judged(contents);
        let stale = attached.unwrap_or_else(|problems| problems.iter().map(|problem| problem.line()).collect());
        for problem in &stale {
            tracing::error!(problem, "a key or certificate file is no good, what it held before serves on");
        }
        if stale.is_empty() && !first {
            tracing::info!("keys, secrets and certificates applied");
        }
        // What is good of them serves, whatever the others are.
        self.table.store(Arc::new(table));
        self.status.attached(stale);
        None
    }
}
