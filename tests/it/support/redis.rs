//! Real Redis servers: started on a free port with a folder of their own, killed, restarted and asked.
//!
//! Unit tests of the store use this file, too; it stands on nothing else of the tests.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long a server may take to begin.
const PATIENCE: Duration = Duration::from_secs(20);

/// What keeps every write: the settings that the documentation asks for.
pub const SAFE: [&str; 8] =
    ["--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction", "--save", ""];

/// A running server; killed when dropped, and when the test process ends in whatever way.
#[derive(Debug)]
pub struct Redis {
    folder: TempDir,
    arguments: Vec<String>,
    port: u16,
    process: Option<Running>,
}

#[derive(Debug)]
struct Running {
    /// A shell that kills the server as soon as its input is closed.
    keeper: Child,
    pid: u32,
}

impl Redis {
    /// Starts a server that keeps every write.
    pub fn start() -> Redis {
        Redis::with(&SAFE)
    }

    /// Starts a server with these arguments.
    pub fn with(arguments: &[&str]) -> Redis {
        Redis::launch(arguments, None)
    }

    /// Starts a Sentinel with this configuration.
    pub fn sentinel(configuration: &str) -> Redis {
        Redis::launch(&["--sentinel"], Some(configuration))
    }

    fn launch(arguments: &[&str], configuration: Option<&str>) -> Redis {
        install();
        let folder = TempDir::with_prefix_in(format!("gateway-part-{}-", std::process::id()), place()).unwrap();
        let mut arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        if let Some(text) = configuration {
            std::fs::write(folder.path().join("conf"), text).unwrap();
            arguments.insert(0, "conf".to_owned());
        }
        let mut redis = Redis { folder, arguments, port: 0, process: None };
        for _ in 0..20 {
            redis.port = free_port();
            if redis.try_launch() {
                return redis;
            }
        }
        panic!("redis-server does not start: {}", redis.log());
    }

    /// Returns the port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the address.
    pub fn addr(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    /// Returns it as `jobs.store` names it.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Returns its folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Returns its log.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Ends it as `kill -9` does.
    pub fn kill(&mut self) {
        if let Some(mut running) = self.process.take() {
            signal(running.pid, "KILL");
            drop(running.keeper.stdin.take());
            running.keeper.wait().unwrap();
        }
    }

    /// Starts it again with its data, at the same port.
    pub fn restart(&mut self) {
        self.kill();
        let end = Instant::now() + PATIENCE;
        while !self.try_launch() {
            assert!(Instant::now() < end, "redis-server does not come back: {}", self.log());
        }
    }

    /// Stops it where it is: connections are accepted, nothing is answered.
    pub fn freeze(&self) {
        signal(self.pid(), "STOP");
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        signal(self.pid(), "CONT");
    }

    fn pid(&self) -> u32 {
        self.process.as_ref().expect("it runs").pid
    }

    /// Sends a command and returns the reply as text: lists as lines, errors with their `-`.
    pub fn ask(&self, words: &[&str]) -> String {
        self.try_ask(words).unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    fn try_ask(&self, words: &[&str]) -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&self.addr(), PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut command = format!("*{}\r\n", words.len());
        for word in words {
            command.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        stream.write_all(command.as_bytes())?;
        read_reply(&mut BufReader::new(stream))
    }

    /// Starts the process; false when it ended at once, most likely since somebody else has the port.
    fn try_launch(&mut self) -> bool {
        let script = "redis-server \"$@\" >>log 2>&1 & echo $!; cat >/dev/null; kill -9 $! 2>/dev/null";
        let mut keeper = Command::new("sh")
            .args(["-c", script, "sh"])
            .args(&self.arguments)
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--dir", "."])
            .current_dir(self.folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("sh runs");
        let mut line = String::new();
        BufReader::new(keeper.stdout.as_mut().expect("a pipe")).read_line(&mut line).unwrap();
        let pid = line.trim().parse().expect("a process id");
        self.process = Some(Running { keeper, pid });
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            // It must be this one: another test's server may have the port.
            let is_it =
                self.try_ask(&["INFO", "server"]).is_ok_and(|info| info.contains(&format!("process_id:{pid}\r")));
            if is_it {
                return true;
            }
            if !Path::new("/proc").join(pid.to_string()).exists() {
                break;
            }
            thread::sleep(Duration::from_millis(5));
        }
        self.kill();
        false
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

fn read_reply(reader: &mut impl BufRead) -> std::io::Result<String> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    let line = line.trim_end();
    let (kind, rest) = line.split_at(1.min(line.len()));
    match (kind, rest.parse::<i64>()) {
        ("$", Ok(length @ 0..)) => {
            let mut bytes = vec![0; usize::try_from(length).expect("a length") + 2];
            reader.read_exact(&mut bytes)?;
            bytes.truncate(bytes.len() - 2);
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        }
        ("$" | "*", Ok(..0)) => Ok("nil".to_owned()),
        ("*", Ok(count)) => {
            let parts: std::io::Result<Vec<String>> = (0..count).map(|_| read_reply(reader)).collect();
            Ok(parts?.join("\n"))
        }
        ("-", _) => Ok(line.to_owned()),
        _ => Ok(rest.to_owned()),
    }
}

fn signal(pid: u32, name: &str) {
    // One that has ended already is what was wanted.
    let _ = Command::new("kill").args([format!("-{name}"), pid.to_string()]).stderr(Stdio::null()).status();
}

/// Returns a port that was free a moment ago; not one of those that connections get by themselves.
pub fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// In memory where there is such a place: the syncs of a disk would rule the time of every test.
fn place() -> PathBuf {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { memory.into() } else { std::env::temp_dir() }
}

/// Installs the server when it is missing; a missing one fails, and is never passed over.
fn install() {
    static DONE: OnceLock<()> = OnceLock::new();
    DONE.get_or_init(|| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/backends/redis.sh");
        let output = Command::new(script).output().expect("redis.sh runs");
        assert!(output.status.success(), "redis-server is missing: {}", String::from_utf8_lossy(&output.stderr));
    });
}

/// What a [`Middleman`] does with the commands that hold a marker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// Redis never gets the command.
    Command,
    /// Redis carries it out, and the answer is lost.
    Answer,
}

/// A piece of network in front of a Redis that loses things: the connection ends with each loss.
#[derive(Debug)]
pub struct Middleman {
    addr: SocketAddr,
    plan: Arc<Mutex<Plan>>,
}

#[derive(Debug, Default)]
struct Plan {
    /// What is lost, how often still, and the marker.
    loss: Option<(Loss, usize, String)>,
    lost: usize,
}

impl Middleman {
    /// Listens on a port of its own and passes everything on.
    pub fn before(redis: &Redis) -> Middleman {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let addr = listener.local_addr().unwrap();
        let plan = Arc::<Mutex<Plan>>::default();
        let (shared, to) = (Arc::clone(&plan), redis.addr());
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // A server that is away ends the connection, as its machine would.
                let Ok(server) = TcpStream::connect(to) else { continue };
                let (back, front) = (server.try_clone().unwrap(), client.try_clone().unwrap());
                let mute = Arc::new(Mutex::new(false));
                let (plan, muted) = (Arc::clone(&shared), Arc::clone(&mute));
                thread::spawn(move || forward(client, server, &plan, &mute));
                thread::spawn(move || backward(back, front, &muted));
            }
        });
        Middleman { addr, plan }
    }

    /// Returns it as `jobs.store` names a Redis.
    pub fn url(&self) -> String {
        format!("redis://{}", self.addr)
    }

    /// Loses the next so many commands that hold the marker, or their answers.
    pub fn lose(&self, loss: Loss, times: usize, marker: &str) {
        self.plan.lock().unwrap().loss = Some((loss, times, marker.to_owned()));
    }

    /// Loses nothing any more.
    pub fn heal(&self) {
        self.plan.lock().unwrap().loss = None;
    }

    /// Counts what was lost.
    pub fn lost(&self) -> usize {
        self.plan.lock().unwrap().lost
    }
}

fn forward(mut client: TcpStream, mut server: TcpStream, plan: &Mutex<Plan>, mute: &Mutex<bool>) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(count @ 1..) = client.read(&mut buffer) {
        let chunk = &buffer[..count];
        let loss = {
            let mut plan = plan.lock().unwrap();
            let holds = |marker: &str| chunk.windows(marker.len()).any(|at| at == marker.as_bytes());
            let loss = plan.loss.as_ref().filter(|(_, times, marker)| *times > 0 && holds(marker)).map(|it| it.0);
            if loss.is_some() {
                plan.lost += 1;
                plan.loss.iter_mut().for_each(|it| it.1 -= 1);
            }
            loss
        };
        match loss {
            Some(Loss::Command) => break,
            // Before Redis gets it, so that no answer slips through.
            Some(Loss::Answer) => *mute.lock().unwrap() = true,
            None => {}
        }
        if server.write_all(chunk).is_err() {
            break;
        }
    }
    let _ = (client.shutdown(std::net::Shutdown::Both), server.shutdown(std::net::Shutdown::Both));
}

fn backward(mut server: TcpStream, mut client: TcpStream, mute: &Mutex<bool>) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(count @ 1..) = server.read(&mut buffer) {
        if *mute.lock().unwrap() || client.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = (client.shutdown(std::net::Shutdown::Both), server.shutdown(std::net::Shutdown::Both));
}
