//! Watches the configuration file and swaps the routing table.
//!
//! One plain thread. An event is only a hint to look; a look reads the file and compares its content, never a
//! timestamp, and happens every [`limits::CONFIG_POLL`] anyway. What replaced the file in one step is judged at once,
//! what was written in place after two equal reads. Judging builds a whole new table, then stores it: a file that is no
//! good changes nothing. The files that the configuration names are looked at by the same thread, see `attached.rs`.
//! The thread touches no connection.

mod attached;
mod status;
mod watch;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

pub use status::{Outcome, ReloadEvent, ReloadState, ReloadStatus};

use crate::config::{self, Contents, Problem, Source, Warning};
use crate::limits;
use crate::routing::table::{Fixed, RoutingTable};
use attached::Attached;
use watch::{Bell, Watch};

/// Where the reloader looks environment variables up.
pub type OwnedEnv = Box<dyn Fn(&str) -> Option<String> + Send>;
/// What is told of every new table, after it serves.
pub type OnApplied = Box<dyn Fn(&Arc<RoutingTable>) + Send>;

/// What a look at a changed file came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reload {
    /// The file says what serves already.
    Same,
    /// The new table serves.
    Applied {
        /// Keys whose new value waits for a restart, as dotted paths.
        needs_restart: Vec<&'static str>,
    },
    /// The file is no good; the old table serves on.
    Rejected(Vec<Problem>),
    /// The file is empty, or lacks the `# END` that the serving one has; the old table serves on.
    Incomplete(Problem),
}

/// Holds the reloader's thread; dropping it stops and joins the thread.
#[derive(Debug)]
pub struct ReloadHandle {
    bell: Bell,
    thread: Option<JoinHandle<()>>,
}

impl ReloadHandle {
    /// Makes the reloader look now, as `SIGHUP` asks for.
    pub fn kick(&self) {
        self.bell.kick();
    }
}

impl Drop for ReloadHandle {
    fn drop(&mut self) {
        self.bell.stop();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was logged by the hook; there is nobody else to tell.
            let _ = thread.join();
        }
    }
}

/// Starts to watch `path`, whose content `table` was loaded from.
///
/// # Errors
/// When the system gives no thread, or the path's folder cannot be told.
pub fn spawn(
    path: PathBuf,
    table: Arc<ArcSwap<RoutingTable>>,
    status: Arc<ReloadStatus>,
    env: OwnedEnv,
    on_applied: OnApplied,
) -> std::io::Result<ReloadHandle> {
    let (bell, wake) = Bell::new();
    let reloader = Reloader {
        base_dir: config::base_dir(&path)?,
        judged: Content::Text(table.load_full().hash.clone()),
        resolved: path.canonicalize().ok(),
        watch: Watch::new(path.clone(), bell.clone()),
        path,
        table,
        status,
        env,
        on_applied,
        bell,
        pending: None,
        attached: Attached::default(),
        warnings: Vec::new(),
    };
    start(reloader, wake)
}

fn start(mut reloader: Reloader, wake: Receiver<()>) -> std::io::Result<ReloadHandle> {
    let bell = reloader.bell.clone();
    let thread = std::thread::Builder::new().name("reload".to_owned()).spawn(move || reloader.run(&wake))?;
    Ok(ReloadHandle { bell, thread: Some(thread) })
}

/// What a read found: the hash of a text, or why there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Content {
    Text(String),
    Unreadable(String),
}

/// One read of the file.
struct Reading {
    content: Content,
    bytes: Vec<u8>,
    /// The file behind all symbolic links.
    resolved: Option<PathBuf>,
    /// Why there is no text.
    problem: Option<Problem>,
}

/// A content that waits for a second, equal read.
struct Pending {
    content: Content,
    since: Instant,
}

struct Reloader {
    path: PathBuf,
    base_dir: PathBuf,
    table: Arc<ArcSwap<RoutingTable>>,
    status: Arc<ReloadStatus>,
    env: OwnedEnv,
    on_applied: OnApplied,
    watch: Watch,
    bell: Bell,
    /// The content that was last applied or refused: nothing is said of it a second time.
    judged: Content,
    /// Where the path last led.
    resolved: Option<PathBuf>,
    pending: Option<Pending>,
    /// What the files that the configuration names were last seen to hold.
    attached: Attached,
    /// Warnings of the last good file, so that each is logged once.
    warnings: Vec<Warning>,
}

impl Reloader {
    fn run(&mut self, wake: &Receiver<()>) {
        let mut due = Instant::now();
        let mut looked = None::<Instant>;
        loop {
            match wake.recv_timeout(due.saturating_duration_since(Instant::now())) {
                Ok(()) => {
                    // However many events come, two looks are a little apart; the first of a burst is not delayed.
                    let pause = looked.map_or(Duration::ZERO, |at| limits::CONFIG_PAUSE.saturating_sub(at.elapsed()));
                    std::thread::sleep(pause);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if self.bell.stopped() {
                return;
            }
            let kicked = self.bell.take_kicked();
            let settles = match catch_unwind(AssertUnwindSafe(|| (self.look(kicked), self.look_at_attached()))) {
                Ok((file, attached)) => file.into_iter().chain(attached).min(),
                Err(_) => {
                    tracing::error!("looking at the configuration panicked, the old one serves on");
                    self.pending = None;
                    None
                }
            };
            looked = Some(Instant::now());
            due = settles.unwrap_or_else(|| Instant::now() + limits::CONFIG_POLL);
        }
    }

    /// Looks at the file once; returns when to look again for it to settle.
    fn look(&mut self, kicked: bool) -> Option<Instant> {
        self.status.count_look();
        // The watch comes first: what changes after the read below then rings again.
        self.watch.renew();
        let moved = self.bell.take_moved();
        let began = Instant::now();
        let reading = take_reading(&self.path);
        let led_elsewhere = reading.resolved.is_some() && reading.resolved != self.resolved;
        if reading.resolved.is_some() {
            self.resolved.clone_from(&reading.resolved);
        }
        if reading.content == self.judged {
            self.pending = None;
            if kicked {
                tracing::info!(file = %self.path.display(), "configuration looked at, it has not changed");
            }
            return None;
        }
        let replaced = (moved || led_elsewhere) && matches!(reading.content, Content::Text(_));
        let waiting = self.pending.as_ref().filter(|pending| pending.content == reading.content);
        if !replaced {
            let since = waiting.map_or_else(Instant::now, |pending| pending.since);
            let settles = since + limits::CONFIG_SETTLE;
            if waiting.is_none() || began < settles {
                self.pending = Some(Pending { content: reading.content, since });
                return Some(settles);
            }
        }
        self.pending = None;
        // Set before judging: should judging panic, the same content is not judged again and again.
        self.judged = reading.content.clone();
        let outcome = self.judge(&reading);
        self.tell(&reading, &outcome, began.elapsed());
        if matches!(outcome, Reload::Applied { .. }) {
            (self.on_applied)(&self.table.load_full());
        }
        None
    }

    /// Decides on a settled content, and swaps the table when it is good.
    fn judge(&mut self, reading: &Reading) -> Reload {
        if let Some(problem) = &reading.problem {
            return Reload::Rejected(vec![problem.clone()]);
        }
        let serving = self.table.load_full();
        let name = self.path.display().to_string();
        let Content::Text(hash) = &reading.content else { return Reload::Same };
        if *hash == serving.hash {
            return Reload::Same;
        }
        if let Some(problem) = config::incomplete(&name, &reading.bytes, serving.end_marker) {
            return Reload::Incomplete(problem);
        }
        let source = Source { bytes: &reading.bytes, name: &name, base_dir: &self.base_dir };
        let (mut table, warnings) = match config::load(&source, &*self.env) {
            Ok(loaded) => loaded,
            Err(problems) => return Reload::Rejected(problems),
        };
        let contents = Contents::read(&table);
        let stale = match config::attach(&mut table, &contents, Some(&serving), &name) {
            Ok(stale) => stale,
            Err(problems) => return Reload::Rejected(problems),
        };
        self.attached.judged(contents);
        self.status.attached(stale);
        let needs_restart = changed_keys(&serving.fixed, &table.fixed);
        table.fixed = serving.fixed.clone();
        for warning in warnings.iter().filter(|warning| !self.warnings.contains(warning)) {
            tracing::warn!(warning = %warning, "configuration warning");
        }
        self.warnings = warnings;
        self.table.store(Arc::new(table));
        Reload::Applied { needs_restart }
    }

    /// Logs an outcome and keeps it for whoever asks.
    fn tell(&self, reading: &Reading, outcome: &Reload, took: Duration) {
        let file = self.path.display();
        let hash = match &reading.content {
            Content::Text(hash) => hash.as_str(),
            Content::Unreadable(_) => "",
        };
        match outcome {
            Reload::Same => tracing::info!(%file, hash, "configuration is again the one that serves"),
            Reload::Applied { needs_restart } => {
                let shares = self.table.load_full().shares();
                tracing::info!(%file, hash, shares, duration_seconds = took.as_secs_f64(), "configuration applied");
                for key in needs_restart {
                    tracing::warn!(key, "configuration key needs a restart, its old value stays");
                }
            }
            Reload::Incomplete(problem) => {
                tracing::warn!(%file, hash, problem = problem.line(), "configuration incomplete, the old one serves on");
            }
            Reload::Rejected(problems) => {
                tracing::error!(%file, hash, problems = problems.len(), "configuration rejected, the old one serves on");
                for problem in problems {
                    tracing::error!(problem = problem.line(), "configuration problem");
                }
            }
        }
        self.status.record(outcome, hash, took);
    }
}

fn take_reading(path: &Path) -> Reading {
    let name = path.display().to_string();
    match config::read(path) {
        Ok((bytes, _)) => Reading {
            content: Content::Text(config::hash(&bytes)),
            bytes,
            resolved: path.canonicalize().ok(),
            problem: None,
        },
        Err(error) => {
            let problem = config::unreadable(&name, &error);
            let content = Content::Unreadable(problem.message.clone());
            Reading { content, bytes: Vec::new(), resolved: None, problem: Some(problem) }
        }
    }
}

/// Names the keys that only a restart can apply.
fn changed_keys(old: &Fixed, new: &Fixed) -> Vec<&'static str> {
    let changed = [
        ("server.listen", old.listen != new.listen),
        ("server.threads", old.threads != new.threads),
        ("admin.listen", old.admin_listen != new.admin_listen),
        ("jobs.store", !old.store.is_same_place(&new.store)),
        ("telemetry.otlp", old.otlp != new.otlp),
        ("log.access", old.access_log != new.access_log),
        ("jobs.wait_replicas", old.store != new.store && old.store.is_same_place(&new.store)),
    ];
    changed.into_iter().filter(|(_, changed)| *changed).map(|(key, _)| key).collect()
}

#[cfg(test)]
mod tests;
