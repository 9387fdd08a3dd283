//! What the service manager is told, by the protocol of sd_notify(3); without `NOTIFY_SOCKET` nobody listens.

use std::time::Duration;

use sd_notify::NotifyState;

use crate::limits;

/// Says whether somebody listens.
pub fn is_wanted() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// The gateway serves; also the end of a reload.
pub fn ready() {
    say(&[NotifyState::Ready]);
}

/// The gateway looks at its file, because it was asked to.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => say(&[NotifyState::Reloading, now]),
        Err(_) => say(&[NotifyState::Reloading]),
    }
}

/// The gateway is on its way down.
pub fn stopping() {
    say(&[NotifyState::Stopping, NotifyState::Status("draining")]);
}

/// One line for people, of which the first [`limits::STATUS_LINE`] bytes are shown.
pub fn status(line: &str) {
    say(&[NotifyState::Status(&one_line(line))]);
}

/// The gateway is well.
pub fn alive() {
    say(&[NotifyState::Watchdog]);
}

/// Another process has taken over and is the one to watch.
pub fn main_process(pid: u32) {
    say(&[NotifyState::MainPid(pid)]);
}

/// How often the service manager wants to hear that the gateway is well, if at all.
pub fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled().filter(|period| !period.is_zero())
}

fn say(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager could not be told");
    }
}

/// Cuts a text, and keeps it from being read as further messages.
fn one_line(text: &str) -> String {
    let mut line = String::new();
    for it in text.chars().map(|it| if it.is_control() { ' ' } else { it }) {
        if line.len() + it.len_utf8() > limits::STATUS_LINE {
            break;
        }
        line.push(it);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_one_short_line() {
        assert_eq!(one_line("degraded:\nMAINPID=1"), "degraded: MAINPID=1");
        assert_eq!(one_line(&"ä".repeat(1_000)).len(), limits::STATUS_LINE);
    }
}
