//! What systemd is told, as it would hear it: on a datagram socket.

use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use crate::support::backend::Recorder;
use crate::support::gateway::{Backends, Gateway, table};
use crate::support::scene::no_look_up;
use crate::support::{DEADLINE, signal};

/// A status is told again every ten seconds.
const LIMIT: Duration = Duration::from_secs(25);

struct Manager {
    _folder: tempfile::TempDir,
    socket: UnixDatagram,
    path: String,
}

impl Manager {
    fn listen() -> Manager {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        Manager { path: path.to_str().unwrap().to_owned(), _folder: folder, socket }
    }

    /// Reads messages until one has this line; returns its lines.
    fn hear(&self, line: &str) -> Vec<String> {
        self.hear_one(|said| said == line)
    }

    fn hear_one(&self, fits: impl Fn(&str) -> bool) -> Vec<String> {
        let (mut heard, end) = (Vec::new(), Instant::now() + LIMIT);
        loop {
            let mut bytes = [0; 4096];
            let received = self.socket.recv(&mut bytes).ok().filter(|_| Instant::now() < end);
            let Some(count) = received else { panic!("it was not said, but {heard:#?}") };
            let lines: Vec<_> = String::from_utf8_lossy(&bytes[..count]).lines().map(str::to_owned).collect();
            if lines.iter().any(|it| fits(it)) {
                return lines;
            }
            heard.push(lines);
        }
    }

    fn gateway(&self, environment: &[(&str, &str)]) -> Gateway {
        let recorder = Recorder::start();
        let mut table = table(&Backends::from(&recorder));
        no_look_up(&mut table);
        let environment: Vec<_> = environment.iter().copied().chain([("NOTIFY_SOCKET", self.path.as_str())]).collect();
        Gateway::in_environment(&table.to_string(), &environment)
    }
}

#[test]
fn it_hears_of_readiness_reload_status_and_the_end() {
    let manager = Manager::listen();
    let mut gateway = manager.gateway(&[]);
    manager.hear("READY=1");
    let text = gateway.config_text();
    gateway.write_by_rename("nonsense");
    gateway.signal("HUP");
    let reloading = manager.hear("RELOADING=1");
    assert!(reloading.iter().any(|line| line.starts_with("MONOTONIC_USEC=")), "{reloading:?}");
    manager.hear("READY=1");
    let status = manager.hear_one(|line| line.starts_with("STATUS=degraded"));
    assert!(status.len() == 1 && status[0].contains("config_refused: "), "{status:?}");
    gateway.write_by_rename(&text);
    manager.hear("STATUS=ready");
    gateway.signal("TERM");
    manager.hear("STOPPING=1");
    assert_eq!(gateway.wait(DEADLINE).code(), Some(0));
}

#[test]
fn the_watchdog_is_fed_by_the_process_that_it_watches() {
    let manager = Manager::listen();
    let mut gateway = manager.gateway(&[("WATCHDOG_USEC", "3000000")]);
    (0..3).for_each(|_| drop(manager.hear("WATCHDOG=1")));
    // A process that stands still says nothing, and goes on when it goes on.
    gateway.signal("STOP");
    manager.socket.set_read_timeout(Some(Duration::from_millis(2500))).unwrap();
    let mut bytes = [0; 4096];
    while manager.socket.recv(&mut bytes).is_ok() {}
    manager.socket.set_read_timeout(Some(LIMIT)).unwrap();
    gateway.signal("CONT");
    manager.hear("WATCHDOG=1");
    assert_eq!(gateway.term().code(), Some(0));

    let gateway = manager.gateway(&[("WATCHDOG_USEC", "3000000"), ("WATCHDOG_PID", "1")]);
    manager.hear("READY=1");
    manager.hear("STATUS=ready");
    manager.socket.set_read_timeout(Some(Duration::from_millis(2500))).unwrap();
    while let Ok(count) = manager.socket.recv(&mut bytes) {
        assert!(!bytes[..count].starts_with(b"WATCHDOG"), "another process is watched");
    }
    drop(gateway);
}

#[test]
fn it_is_told_which_process_has_taken_over() {
    let manager = Manager::listen();
    let mut gateway = manager.gateway(&[("WATCHDOG_USEC", "3000000"), ("WATCHDOG_PID", "")]);
    manager.hear("READY=1");
    let new = gateway.upgrade();
    manager.hear(&format!("MAINPID={new}"));
    assert_eq!(gateway.wait(DEADLINE).code(), Some(0));
    manager.hear("STATUS=ready");
    signal(new, "TERM");
    manager.hear("STOPPING=1");
    gateway.wait_successor(DEADLINE);
}
