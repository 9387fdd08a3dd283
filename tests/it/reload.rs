//! Editing the file under load: every way people do it, on the real binary, with requests and WebSockets running.
//!
//! `EXPORT_GATEWAY_LONG=1` makes each edit three times and prints how long it took to be live.

mod broken;
mod load;
mod ways;

use std::time::{Duration, Instant};

use toml::Table;

use super::support::client::{Connection, Request};
use super::support::gateway::{Gateway, series, set, table};
use super::support::parts::Set;
use super::support::{DEADLINE, within};

/// What is promised.
const LIVE: Duration = Duration::from_secs(1);

/// Returns the tests' file as text, with `change` made, and `# END` as its last line as in the shipped one.
fn text(set: &Set, change: impl FnOnce(&mut Table)) -> String {
    let mut table = table(&set.into());
    change(&mut table);
    format!("{table}# END\n")
}

/// Returns a file that moves `percent` of users: equally long for all percentages of two digits.
fn text_at(set: &Set, percent: i64) -> String {
    text(set, |table| self::set(table, "rollout.percent", percent))
}

/// Makes the gateway look at its file, and returns when it has looked and found what serves already.
fn look(gateway: &Gateway) {
    let looked = || gateway.events("configuration looked at, it has not changed").len();
    let before = looked();
    gateway.signal("HUP");
    within(DEADLINE, "a look at the file", || (looked() > before).then_some(()));
}

/// A kept connection to the admin port, so that looking costs little and can be done often.
struct Eye(Connection);

impl Eye {
    fn open(gateway: &Gateway) -> Eye {
        Eye(Connection::open(gateway.admin()))
    }

    fn percent(&mut self) -> f64 {
        let text = self.0.exchange(&Request::get("/metrics")).unwrap().text();
        let series = series(&text, "export_gateway_rollout_percent");
        // In the moment of a swap the series may be absent; that is not the new percentage, whichever it is.
        series.iter().find(|(labels, _)| labels["type"] == "overlay").map_or(f64::NAN, |(_, percent)| *percent)
    }

    /// Waits until `percent` is live, and returns how long that took since `written`.
    fn live(&mut self, percent: i64, written: Instant) -> Duration {
        within(DEADLINE, &format!("{percent} % is live"), || {
            (self.percent() == percent as f64).then(|| written.elapsed())
        })
    }
}
