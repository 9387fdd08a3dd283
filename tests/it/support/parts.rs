//! The real backends as child processes: FastAPI on uvicorn, the Worker on workerd, and RunPod's simulator.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::client::{self, Request};
use super::{root, signal};

/// A running part; it ends when this is dropped, and when the test process ends in whatever way.
#[derive(Debug)]
pub struct Part {
    name: &'static str,
    arguments: Vec<String>,
    child: Child,
    pid: u32,
    addr: SocketAddr,
}

impl Part {
    fn start(name: &'static str, arguments: Vec<String>) -> Part {
        set_up();
        let (child, pid, addr) = launch(name, &arguments, 0);
        Part { name, arguments, child, pid, addr }
    }

    /// Returns the base URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Returns the address.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Returns all that was seen: requests with target, method, path, query, headers and body, oldest first.
    pub fn seen(&self) -> Vec<Value> {
        array(&self.control_get("/_test/seen")["seen"])
    }

    /// Returns what was seen of one target: `start`, `status`, `websocket`, `other` (RunPod: `run`, …).
    pub fn seen_of(&self, target: &str) -> Vec<Value> {
        array(&self.control_get(&format!("/_test/seen?target={target}"))["seen"])
    }

    /// Returns what was seen of one target from one user.
    pub fn seen_from(&self, target: &str, user: &str) -> Vec<Value> {
        self.seen_of(target).into_iter().filter(|request| header_of(request, "x-user-id").contains(&user)).collect()
    }

    /// Counts the requests seen of one target.
    pub fn count(&self, target: &str) -> u64 {
        self.control_get("/_test/seen")["counts"][target].as_u64().unwrap_or(0)
    }

    /// Returns every job that was made, oldest first; for RunPod every paid start.
    pub fn jobs(&self) -> Vec<Value> {
        array(&self.control_get("/_test/jobs"))
    }

    /// Returns the jobs of one user.
    pub fn jobs_of(&self, user: &str) -> Vec<Value> {
        let is_theirs = |job: &Value| job["user"] == user || job["input"]["user"] == user;
        self.jobs().into_iter().filter(is_theirs).collect()
    }

    /// Sets faults: `{"start": {"mode": "answer", "status": 503, "times": 1}}`; `tests/backends/README.md` lists them.
    pub fn fault(&self, faults: Value) {
        self.control_post("/_test/faults", &faults);
    }

    /// Forgets faults, settings and what was seen.
    pub fn reset(&self) {
        self.control_post("/_test/reset", &json!({}));
    }

    /// Posts to one of the controls under `/_test/`.
    pub fn control_post(&self, path: &str, body: &Value) -> Value {
        let answer = client::send(self.addr, &Request::post_json(path, body));
        assert_eq!(answer.status, 200, "{path} {body}: {}", answer.text());
        answer.json()
    }

    fn control_get(&self, path: &str) -> Value {
        client::get(self.addr, path).json()
    }

    /// Ends the part at once, as a crash would; its port stays free for [`Part::restart`].
    pub fn kill(&mut self) {
        signal(self.pid, "KILL");
        self.child.wait().unwrap();
    }

    /// Starts the part again after [`Part::kill`], at the same address with the same data.
    pub fn restart(&mut self) {
        let (child, pid, addr) = launch(self.name, &self.arguments, self.addr.port());
        (self.child, self.pid, self.addr) = (child, pid, addr);
    }

    /// Stops the part where it is: connections are still accepted, nothing is answered.
    pub fn freeze(&self) {
        signal(self.pid, "STOP");
    }

    /// Lets the part go on after [`Part::freeze`].
    pub fn thaw(&self) {
        signal(self.pid, "CONT");
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // The launcher's child ends with it: by its closed input, or by the kernel.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// RunPod's simulator.
#[derive(Debug)]
pub struct RunPod(Part);

impl RunPod {
    /// Starts it; a job takes one second.
    pub fn start() -> RunPod {
        RunPod(Part::start("runpod", vec!["--seconds".into(), "1".into()]))
    }

    /// Adds a rule for jobs to come: `{"match": {"user": …}, "seconds": 5, "outcome": "FAILED"}`.
    pub fn rule(&self, rule: Value) {
        self.control_post("/_test/rules", &rule);
    }
}

/// The FastAPI backend.
#[derive(Debug)]
pub struct Legacy {
    part: Part,
    data: TempDir,
}

impl Legacy {
    /// Starts it before `runpod`, with no data.
    pub fn start(runpod: &RunPod) -> Legacy {
        let data = quick_folder("gateway-part");
        Legacy { part: Part::start("legacy", arguments(data.path(), runpod)), data }
    }

    /// Adds a working video to a user's project.
    pub fn add_video(&self, user: &str, project: u64, filename: &str) {
        self.control_post("/_test/videos", &json!({"user": user, "project_id": project, "filename": filename}));
    }

    /// Returns the folder that holds `user_data/<user>/database.sqlite`.
    pub fn data_dir(&self) -> &Path {
        self.data.path()
    }

    /// Returns the file of a user's database.
    pub fn database(&self, user: &str) -> PathBuf {
        self.data.path().join("user_data").join(user).join("database.sqlite")
    }
}

/// The Cloudflare Worker.
#[derive(Debug)]
pub struct Workers {
    part: Part,
    data: TempDir,
}

impl Workers {
    /// Starts it before `runpod`.
    pub fn start(runpod: &RunPod) -> Workers {
        let data = quick_folder("gateway-part");
        Workers { part: Part::start("workers", arguments(data.path(), runpod)), data }
    }

    /// Sets `{"idempotent": bool}` or `{"require_header": {"name", "value", "status"}}`.
    pub fn settings(&self, settings: Value) {
        self.control_post("/_test/settings", &settings);
    }

    /// Returns the folder of the Durable Objects.
    pub fn data_dir(&self) -> &Path {
        self.data.path()
    }
}

impl Deref for RunPod {
    type Target = Part;
    fn deref(&self) -> &Part {
        &self.0
    }
}

impl DerefMut for RunPod {
    fn deref_mut(&mut self) -> &mut Part {
        &mut self.0
    }
}

impl Deref for Legacy {
    type Target = Part;
    fn deref(&self) -> &Part {
        &self.part
    }
}

impl DerefMut for Legacy {
    fn deref_mut(&mut self) -> &mut Part {
        &mut self.part
    }
}

impl Deref for Workers {
    type Target = Part;
    fn deref(&self) -> &Part {
        &self.part
    }
}

impl DerefMut for Workers {
    fn deref_mut(&mut self) -> &mut Part {
        &mut self.part
    }
}

/// All three, joined up.
#[derive(Debug)]
pub struct Set {
    /// The FastAPI backend.
    pub legacy: Legacy,
    /// The Cloudflare Worker.
    pub workers: Workers,
    /// RunPod's simulator behind both.
    pub runpod: RunPod,
}

impl Set {
    /// Starts a set of one's own, for tests that break things.
    pub fn start() -> Set {
        let runpod = RunPod::start();
        let (legacy, workers) = std::thread::scope(|scope| {
            let legacy = scope.spawn(|| Legacy::start(&runpod));
            let workers = Workers::start(&runpod);
            (legacy.join().unwrap(), workers)
        });
        Set { legacy, workers, runpod }
    }

    /// Makes a user with a working video in project 12.
    pub fn user(&self) -> String {
        let user = super::unique_user();
        self.legacy.add_video(&user, 12, "clip.mp4");
        user
    }

    /// Counts a user's jobs on both backends: legacy's, then workers'.
    pub fn jobs_of(&self, user: &str) -> (usize, usize) {
        (self.legacy.jobs_of(user).len(), self.workers.jobs_of(user).len())
    }
}

/// Returns the set that the whole test process shares: for tests that set no fault but for a user of their own.
pub fn shared() -> &'static Set {
    static SHARED: OnceLock<Set> = OnceLock::new();
    SHARED.get_or_init(Set::start)
}

/// Returns the values of a header field in a request that was seen.
pub fn header_of<'a>(request: &'a Value, name: &str) -> Vec<&'a str> {
    let headers = request["headers"].as_array().map(Vec::as_slice).unwrap_or_default();
    let wanted = headers.iter().filter(|field| field[0].as_str().is_some_and(|it| it.eq_ignore_ascii_case(name)));
    wanted.filter_map(|field| field[1].as_str()).collect()
}

fn array(value: &Value) -> Vec<Value> {
    value.as_array().unwrap_or_else(|| panic!("no list: {value}")).clone()
}

fn arguments(data: &Path, runpod: &RunPod) -> Vec<String> {
    let data = data.to_str().expect("a path in UTF-8").to_owned();
    vec!["--data".into(), data, "--runpod-url".into(), runpod.url()]
}

/// Makes a folder in memory where there is such a place: with many databases at once, a disk's syncs would rule the
/// time of every test (85 ms a start instead of 2 were seen).
pub fn quick_folder(prefix: &str) -> TempDir {
    set_up();
    TempDir::with_prefix_in(format!("{prefix}-{}-", std::process::id()), quick_place()).unwrap()
}

fn quick_place() -> &'static Path {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { memory } else { Path::new(env!("CARGO_TARGET_TMPDIR")) }
}

/// Removes the folders that test processes which are gone have left behind: the shared set is never dropped.
fn remove_leftovers() {
    for entry in fs::read_dir(quick_place()).unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let ours = name.strip_prefix("gateway-part-").or_else(|| name.strip_prefix("gateway-folder-"));
        let owner = ours.and_then(|rest| rest.split('-').next());
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn set_up() {
    static DONE: OnceLock<()> = OnceLock::new();
    DONE.get_or_init(|| {
        fs::create_dir_all(env!("CARGO_TARGET_TMPDIR")).unwrap();
        remove_leftovers();
        let output = Command::new(root().join("tests/backends/setup.sh")).output().expect("setup.sh runs");
        let text = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "tests/backends/setup.sh failed:\n{}", String::from_utf8_lossy(&text));
    });
}

fn launch(name: &str, arguments: &[String], port: u16) -> (Child, u32, SocketAddr) {
    let mut child = Command::new("python3")
        .arg(root().join("tests/backends/run.py"))
        .args([name, "--port", &port.to_string()])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 runs");
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().expect("a pipe")).read_line(&mut line).unwrap();
    let ready: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("{name} did not start: {line:?}"));
    let url = ready["url"].as_str().expect("a URL");
    let addr = url.trim_start_matches("http://").parse().expect("an address");
    let pid = ready["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("a process id");
    (child, pid, addr)
}
