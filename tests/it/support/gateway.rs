//! The real gateway binary as a child process, with a folder of its own for file, store and logs.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use toml::Table;

use super::client;
use super::parts::{Set, quick_folder};
use super::{eventually, signal, within};

/// Where it is set, the process gets no more descriptors than it says.
const DESCRIPTORS: &str = "TEST_DESCRIPTORS";
const BINARY: &str = env!("CARGO_BIN_EXE_export-gateway");

/// Where a gateway's backends are.
#[derive(Debug, Clone)]
pub struct Backends {
    /// Legacy's base URL.
    pub legacy: String,
    /// The Worker's base URL.
    pub workers: String,
    /// The folder with legacy's `user_data`.
    pub data: PathBuf,
}

impl From<&Set> for Backends {
    fn from(set: &Set) -> Backends {
        Backends { legacy: set.legacy.url(), workers: set.workers.url(), data: set.legacy.data_dir().into() }
    }
}

/// A running gateway; killed when dropped, with its log shown when the test has failed.
#[derive(Debug)]
pub struct Gateway {
    folder: TempDir,
    environment: Vec<(String, String)>,
    hosts: Option<PathBuf>,
    process: Process,
    /// The process that has taken over.
    successor: Option<u32>,
}

#[derive(Debug)]
struct Process {
    child: Child,
    addr: SocketAddr,
    admin: SocketAddr,
    stderr: Arc<Mutex<String>>,
    access: Arc<Mutex<Vec<Value>>>,
}

impl Gateway {
    /// Starts a gateway that sends everybody to workers (`percent = 100`).
    pub fn start(backends: impl Into<Backends>) -> Gateway {
        Gateway::with(backends, |_| {})
    }

    /// Starts a gateway after `change` has edited that file; see [`set`] for an easy way.
    pub fn with(backends: impl Into<Backends>, change: impl FnOnce(&mut Table)) -> Gateway {
        let mut table = table(&backends.into());
        change(&mut table);
        Gateway::from_text(&table.to_string())
    }

    /// Starts a gateway with exactly this file.
    pub fn from_text(text: &str) -> Gateway {
        Gateway::in_environment(text, &[])
    }

    /// Starts a gateway with exactly this file and these environment variables.
    pub fn in_environment(text: &str, environment: &[(&str, &str)]) -> Gateway {
        Gateway::launch(text, environment, None)
    }

    /// Starts a gateway with exactly this file, for which `/etc/hosts` is another one; it may be written in place.
    pub fn with_hosts(text: &str, hosts: &Path) -> Gateway {
        Gateway::launch(text, &[], Some(hosts.into()))
    }

    /// Starts a gateway with exactly this file that may not have more than so many descriptors.
    pub fn with_descriptors(text: &str, descriptors: usize) -> Gateway {
        Gateway::in_environment(text, &[(DESCRIPTORS, &descriptors.to_string())])
    }

    fn launch(text: &str, environment: &[(&str, &str)], hosts: Option<PathBuf>) -> Gateway {
        let folder = quick_folder("gateway-folder");
        let config = folder.path().join("gateway.toml");
        fs::write(&config, text).unwrap();
        let environment: Vec<_> = environment.iter().map(|&(name, value)| (name.into(), value.into())).collect();
        let process = Process::start(&config, &environment, hosts.as_deref());
        Gateway { folder, environment, hosts, process, successor: None }
    }

    /// Returns the address clients use.
    pub fn addr(&self) -> SocketAddr {
        self.process.addr
    }

    /// Returns the base URL clients use.
    pub fn url(&self) -> String {
        format!("http://{}", self.process.addr)
    }

    /// Returns the admin address.
    pub fn admin(&self) -> SocketAddr {
        self.process.admin
    }

    /// Returns the process id.
    pub fn pid(&self) -> u32 {
        self.process.child.id()
    }

    /// Returns the gateway's own folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Returns the path of its file.
    pub fn config_path(&self) -> PathBuf {
        self.folder.path().join("gateway.toml")
    }

    /// Returns the file's text.
    pub fn config_text(&self) -> String {
        fs::read_to_string(self.config_path()).unwrap()
    }

    /// Edits the file as an editor does (new file, renamed into place) and waits until the gateway has taken it.
    pub fn edit(&self, change: impl FnOnce(&mut Table)) {
        let mut table: Table = self.config_text().parse().unwrap();
        change(&mut table);
        let before = self.reloads();
        self.write_by_rename(&table.to_string());
        self.wait_reload(&before);
    }

    /// Sets `rollout.percent` by [`Gateway::edit`].
    pub fn set_percent(&self, percent: f64) {
        self.edit(|table| set(table, "rollout.percent", percent));
    }

    /// Writes the file in place.
    pub fn write_in_place(&self, text: &str) {
        fs::write(self.config_path(), text).unwrap();
    }

    /// Writes a new file and renames it into place.
    pub fn write_by_rename(&self, text: &str) {
        let new = self.folder.path().join(".gateway.toml.new");
        fs::write(&new, text).unwrap();
        fs::rename(&new, self.config_path()).unwrap();
    }

    /// Returns how many reloads of each result there were.
    pub fn reloads(&self) -> BTreeMap<String, u64> {
        let metrics = self.metrics();
        let series = series(&metrics, "export_gateway_config_reloads_total");
        series.into_iter().map(|(labels, value)| (labels["result"].clone(), value as u64)).collect()
    }

    /// Waits for a reload after `before` was taken by [`Gateway::reloads`]; returns its result.
    pub fn wait_reload(&self, before: &BTreeMap<String, u64>) -> String {
        eventually("a reload of the file", || {
            let more = |(result, count): &(String, u64)| {
                !matches!(result.as_str(), "same" | "unchanged") && before.get(result).unwrap_or(&0) < count
            };
            self.reloads().into_iter().find(more).map(|(result, _)| result)
        })
    }

    /// Returns what `/metrics` says.
    pub fn metrics(&self) -> String {
        client::get(self.admin(), "/metrics").text()
    }

    /// Sums the series of a metric that have all these labels; 0 where there is none.
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let has_all = |have: &BTreeMap<String, String>| {
            labels.iter().all(|&(label, value)| have.get(label).is_some_and(|it| it == value))
        };
        series(&self.metrics(), name).into_iter().filter(|(have, _)| has_all(have)).map(|(_, value)| value).sum()
    }

    /// Waits for a line of the access log that fits, and returns the first.
    pub fn access_log(&self, fits: impl Fn(&Value) -> bool) -> Value {
        eventually("a line in the access log", || self.access_lines().into_iter().find(&fits))
    }

    /// Returns all lines of the access log so far.
    pub fn access_lines(&self) -> Vec<Value> {
        self.process.access.lock().unwrap().clone()
    }

    /// Returns the event log so far.
    pub fn stderr_text(&self) -> String {
        self.process.stderr.lock().unwrap().clone()
    }

    /// Returns the events with this message.
    pub fn events(&self, message: &str) -> Vec<Value> {
        events(&self.stderr_text()).filter(|event| text_of(event, "message") == Some(message)).collect()
    }

    /// Waits for an event with this message.
    pub fn event(&self, message: &str) -> Value {
        eventually(&format!("the event {message:?}"), || self.events(message).pop())
    }

    /// Returns the resident memory in KiB.
    pub fn rss_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a line VmRSS");
        line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number of KiB")
    }

    /// Sends a signal: `HUP`, `TERM`, `STOP` …
    pub fn signal(&self, name: &str) {
        signal(self.pid(), name);
    }

    /// Sends SIGTERM and waits for the end.
    pub fn term(&mut self) -> ExitStatus {
        self.signal("TERM");
        self.wait(super::DEADLINE)
    }

    /// Waits for the end of the process.
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        within(limit, "the end of the gateway", || self.process.child.try_wait().unwrap())
    }

    /// Kills the process as `kill -9` does.
    pub fn kill9(&mut self) {
        self.process.child.kill().unwrap();
        self.process.child.wait().unwrap();
    }

    /// Has a new process take over, and returns its id once it serves; it is ended with this value, too.
    pub fn upgrade(&mut self) -> u32 {
        self.signal("USR2");
        self.event("upgrade: the new process serves, this one drains");
        self.take_note_of_successor();
        self.successor()
    }

    /// Looks up which process was the last to take over.
    pub fn take_note_of_successor(&mut self) {
        let last = self.event("upgrade: the new process serves, this one drains");
        self.successor = last["pid"].as_u64().map(|pid| pid as u32);
    }

    /// Returns the id of the process that has taken over.
    pub fn successor(&self) -> u32 {
        self.successor.expect("an upgrade")
    }

    /// Waits for the end of the process that has taken over.
    pub fn wait_successor(&mut self, limit: Duration) {
        let pid = self.successor();
        within(limit, "the end of the new process", || (!is_running(pid)).then_some(()));
        self.successor = None;
    }

    /// Starts the gateway again with its file and store; both addresses are new where they are port 0.
    pub fn restart(&mut self) {
        let _ = self.process.child.kill();
        let _ = self.process.child.wait();
        self.process = Process::start(&self.config_path(), &self.environment, self.hosts.as_deref());
    }
}

impl Drop for Gateway {
    #[allow(clippy::print_stderr, reason = "shown with the failed test")]
    fn drop(&mut self) {
        let _ = self.process.child.kill();
        let _ = self.process.child.wait();
        if let Some(pid) = self.successor.filter(|pid| is_running(*pid)) {
            signal(pid, "KILL");
        }
        if thread::panicking() {
            let log = self.stderr_text();
            let lines: Vec<_> = log.lines().rev().take(60).collect();
            eprintln!("--- the gateway's last events, newest first ---\n{}", lines.join("\n"));
        }
    }
}

impl Process {
    fn start(config: &Path, environment: &[(String, String)], hosts: Option<&Path>) -> Process {
        let has_few = environment.iter().any(|(name, _)| name == DESCRIPTORS);
        let plain = || if has_few { command_with_few_descriptors() } else { command() };
        let mut child = hosts
            .map_or_else(plain, command_with_hosts)
            .arg("--config")
            .arg(config)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the gateway's binary runs");
        let (stderr, access) = (Arc::default(), Arc::default());
        collect(child.stderr.take().expect("a pipe"), Arc::clone(&stderr), |log: &mut String, line| {
            log.push_str(line);
            log.push('\n');
        });
        collect(child.stdout.take().expect("a pipe"), Arc::clone(&access), |log: &mut Vec<Value>, line| {
            log.push(serde_json::from_str(line).unwrap_or_else(|error| panic!("access log: {error} in {line:?}")));
        });
        let [addr, admin] = ["listening", "admin listening"].map(|message| {
            eventually(&format!("the event {message:?}"), || {
                let log: String = stderr.lock().unwrap().clone();
                if let Some(status) = child.try_wait().unwrap() {
                    panic!("the gateway ended with {status}:\n{log}");
                }
                let event = events(&log).find(|event| text_of(event, "message") == Some(message))?;
                text_of(&event, "address").map(|address| address.parse().expect("an address"))
            })
        });
        Process { child, addr, admin, stderr, access }
    }
}

/// Says whether there is a process that has not ended; one that nobody has collected counts as ended.
pub fn is_running(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// Returns a command of the gateway's binary, for its command line.
pub fn command() -> Command {
    in_plain_environment(Command::new(BINARY))
}

fn command_with_few_descriptors() -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", &format!(r#"ulimit -n "${DESCRIPTORS}" && exec "$0" "$@""#)]).arg(BINARY);
    in_plain_environment(command)
}

/// The same in a mount namespace of its own, where this file is `/etc/hosts`; the process id is still the gateway's.
fn command_with_hosts(hosts: &Path) -> Command {
    let mut command = Command::new("unshare");
    let script = r#"mount --bind "$0" /etc/hosts && exec "$@""#;
    command.args(["--map-root-user", "--mount", "sh", "-c", script]).arg(hosts).arg(BINARY);
    in_plain_environment(command)
}

fn in_plain_environment(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("OTEL_")) {
        command.env_remove(name);
    }
    command.env_remove("RUST_LOG").env("NO_COLOR", "1");
    command
}

/// Runs the gateway's command line to its end.
pub fn run(arguments: &[&str]) -> Output {
    command().args(arguments).stdin(Stdio::null()).output().expect("the gateway's binary runs")
}

/// Returns the file that tests start from, as a table.
pub fn table(backends: &Backends) -> Table {
    let Backends { legacy, workers, data } = backends;
    format!(
        r#"
[server]
listen = "127.0.0.1:0"
[admin]
listen = "127.0.0.1:0"
[backends.legacy]
url = "{legacy}"
[backends.workers]
url = "{workers}"
[identity]
header = "X-User-Id"
default = "a"
[rollout]
workers = true
percent = 100
[exports.overlay]
params = ["highlight_regions", "effect_type"]
[exports.overlay.input_key]
database = "{data}/user_data/{{user_id}}/database.sqlite"
query = "SELECT filename FROM working_videos WHERE project_id = :project_id ORDER BY version DESC LIMIT 1"
key = "working_videos/{{filename}}"
missing = "No working video found"
[exports.framing]
[exports.annotate]
[jobs]
store = "jobs.db"
"#,
        data = data.display()
    )
    .parse()
    .expect("valid TOML")
}

/// Sets one key, by its path: `set(table, "backends.workers.fallback", false)`; tables on the way are made.
pub fn set(table: &mut Table, path: &str, value: impl Into<toml::Value>) {
    let (mut at, mut keys) = (table, path.split('.').peekable());
    while let Some(key) = keys.next() {
        if keys.peek().is_none() {
            at.insert(key.into(), value.into());
            return;
        }
        let next = at.entry(key).or_insert_with(|| Table::new().into());
        at = next.as_table_mut().expect("a table");
    }
}

/// Removes one key or table, by its path.
pub fn unset(table: &mut Table, path: &str) {
    match path.split_once('.') {
        Some((key, rest)) => unset(table[key].as_table_mut().expect("a table"), rest),
        None => drop(table.remove(path)),
    }
}

/// Reads the series of one metric from Prometheus text: labels and value of each.
pub fn series(text: &str, name: &str) -> Vec<(BTreeMap<String, String>, f64)> {
    let read = |line: &str| {
        let rest = line.strip_prefix(name)?;
        let (labels, value) = match rest.strip_prefix('{') {
            Some(rest) => rest.rsplit_once('}')?,
            None => ("", rest.starts_with(' ').then_some(rest)?),
        };
        let pairs = labels.split("\",").filter_map(|pair| pair.trim_end_matches('"').split_once("=\""));
        let labels = pairs.map(|(label, value)| (label.trim().to_owned(), value.to_owned())).collect();
        Some((labels, value.split_whitespace().next()?.parse().ok()?))
    };
    text.lines().filter_map(read).collect()
}

/// Returns a field of an event, wherever the log's format puts it.
pub fn text_of<'a>(event: &'a Value, name: &str) -> Option<&'a str> {
    event["fields"][name].as_str().or_else(|| event[name].as_str())
}

fn events(log: &str) -> impl Iterator<Item = Value> {
    log.lines().filter_map(|line| serde_json::from_str(line).ok())
}

fn collect<T: Send + 'static>(pipe: impl Read + Send + 'static, to: Arc<Mutex<T>>, add: fn(&mut T, &str)) {
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            add(&mut to.lock().unwrap(), &line);
        }
    });
}
