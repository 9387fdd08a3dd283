//! What a service manager is told while the process lives: how it is, that it is alive, that it has looked at its file.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, interval, sleep};

use crate::admin::Admin;
use crate::admin::health::{self, Readiness};
use crate::limits;
use crate::reload::{ReloadHandle, ReloadStatus};
use crate::server::notify;
use crate::server::pulse::{Pulse, Seen};

/// A status that has not changed is told again after this many looks: one told before its time is not heard.
const TELL_AGAIN: u32 = 10;

/// Tells it until it is dropped.
pub(super) async fn tell(admin: Arc<Admin>, pulse: Arc<Pulse>) {
    tokio::join!(tell_status(&admin), feed_watchdog(&pulse));
}

async fn tell_status(admin: &Admin) {
    let (mut told, mut ticks) = (String::new(), interval(limits::STATUS_EVERY));
    for look in 0_u32.. {
        ticks.tick().await;
        let line = line(&health::readiness(admin, &admin.gateway.table.load_full()));
        if line != told || look % TELL_AGAIN == 0 {
            notify::status(&line);
            told = line;
        }
    }
}

fn line(readiness: &Readiness) -> String {
    match readiness {
        Readiness::Ready => "ready".to_owned(),
        Readiness::Draining => "draining".to_owned(),
        Readiness::Degraded(reasons) => {
            let others = reasons.len().saturating_sub(1);
            let more = if others > 0 { format!(" (and {others} more, see /readyz)") } else { String::new() };
            reasons
                .first()
                .map_or_else(String::new, |first| format!("degraded{more}: {}: {}", first.code, first.detail))
        }
    }
}

/// Three times a period, so that one that comes late is no reason for a restart; not if a thread stands still.
async fn feed_watchdog(pulse: &Pulse) {
    let Some(period) = notify::watchdog() else { return };
    // A thread goes round every LOG_FLUSH: asked more often, it would seem to stand still.
    let mut ticks = interval((period / 3).max(2 * limits::LOG_FLUSH));
    let mut seen = Seen::default();
    loop {
        ticks.tick().await;
        match pulse.is_alive(&mut seen) {
            true => notify::alive(),
            false => tracing::error!("a serving thread stands still: the watchdog is not fed"),
        }
    }
}

/// Makes the reloader look, and says when it has.
pub(super) fn reload(watched: &ReloadHandle, status: &Arc<ReloadStatus>) {
    let before = status.looks();
    if !notify::is_wanted() {
        return watched.kick();
    }
    notify::reloading();
    watched.kick();
    let status = status.clone();
    tokio::spawn(async move {
        let end = Instant::now() + limits::RELOAD_WAIT;
        while status.looks() == before && Instant::now() < end {
            sleep(Duration::from_millis(5)).await;
        }
        // A file that was written in place is read a second time.
        sleep(2 * limits::CONFIG_SETTLE).await;
        notify::ready();
    });
}
