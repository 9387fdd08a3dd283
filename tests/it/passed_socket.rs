//! Sockets that systemd passes in: they outlive the process, and with them whoever is queued there.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;
use toml::Table;

use crate::support::backend::Recorder;
use crate::support::client::{Connection, Request, get};
use crate::support::eventually;
use crate::support::gateway::{Backends, command, set, table};
use crate::support::scene::no_look_up;
use crate::support::signal;

/// A gateway that finds a listener at descriptor 3, as systemd does it.
struct Started {
    child: Child,
}

impl Started {
    fn with(listener: &TcpListener, names: &str, folder: &TempDir) -> Started {
        Started { child: start(listener, names, folder).spawn().expect("a shell") }
    }

    fn end(mut self, name: &str) -> Option<i32> {
        signal(self.child.id(), name);
        self.child.wait().unwrap().code()
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn start(listener: &TcpListener, names: &str, folder: &TempDir) -> Command {
    let binary = command().get_program().to_owned();
    let script = "exec 3<&0 0</dev/null; LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=$1 exec \"$0\" --config \"$2\"";
    let mut shell = Command::new("sh");
    shell.args(["-c", script]).arg(binary).arg(names).arg(folder.path().join("gateway.toml"));
    shell.stdin(Stdio::from(OwnedFd::from(listener.try_clone().unwrap())));
    shell
}

/// A folder with a gateway's file, whose address nobody listens on.
fn folder(backend: &Recorder, change: impl FnOnce(&mut Table)) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut table = table(&Backends::from(backend));
    no_look_up(&mut table);
    change(&mut table);
    std::fs::write(folder.path().join("gateway.toml"), table.to_string()).unwrap();
    folder
}

fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

#[test]
fn who_comes_between_two_processes_is_served_by_the_second() {
    let recorder = Recorder::start();
    let (folder, (listener, addr)) = (folder(&recorder, |_| {}), listener());
    let first = Started::with(&listener, "export-gateway.socket", &folder);
    assert_eq!(get(addr, "/first").status, 200);
    assert_eq!(first.end("TERM"), Some(0));
    // Nobody accepts now, and nobody is refused.
    let mut early: Vec<_> = (0..20).map(|_| Connection::open(addr)).collect();
    early.iter_mut().for_each(|connection| connection.send(&Request::get("/early").bytes("h")));
    let second = Started::with(&listener, "export-gateway.socket", &folder);
    for connection in &mut early {
        assert_eq!(connection.read("GET").unwrap().status, 200);
    }
    // Not even by a crash.
    assert_eq!(second.end("KILL"), None);
    let mut early = Connection::open(addr);
    early.send(&Request::get("/after").bytes("h"));
    let third = Started::with(&listener, "export-gateway.socket", &folder);
    assert_eq!(early.read("GET").unwrap().status, 200);
    assert_eq!(third.end("TERM"), Some(0));
    assert_eq!(recorder.requests().len(), 22);
}

#[test]
fn the_socket_named_admin_is_for_operators() {
    let recorder = Recorder::start();
    let (folder, (listener, addr)) = (folder(&recorder, |_| {}), listener());
    let gateway = Started::with(&listener, "admin", &folder);
    assert_eq!(get(addr, "/healthz").status, 200);
    assert_eq!(get(addr, "/readyz").json()["status"], "ready");
    assert_eq!(gateway.end("TERM"), Some(0));
}

#[test]
fn an_admin_socket_that_anybody_reaches_is_refused_where_the_file_says_loopback() {
    let recorder = Recorder::start();
    let folder = folder(&recorder, |_| {});
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    let output = start(&listener, "admin", &folder).output().unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{log}");
    assert!(log.contains("which is not loopback as admin.listen says"), "{log}");
}

#[test]
fn a_descriptor_that_is_no_listening_socket_is_named() {
    let recorder = Recorder::start();
    let folder = folder(&recorder, |table| set(table, "server.threads", 1));
    let (listener, addr) = listener();
    let stream = std::net::TcpStream::connect(addr).unwrap();
    drop(listener.accept().unwrap());
    let mut shell = start(&listener, "x", &folder);
    let output = shell.stdin(Stdio::from(OwnedFd::from(stream))).output().unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{log}");
    assert!(log.contains("socket 0 of those passed in by LISTEN_FDS cannot be used: it does not listen"), "{log}");
}

#[test]
fn descriptors_that_are_meant_for_another_process_are_left_alone() {
    let recorder = Recorder::start();
    let folder = folder(&recorder, |_| {});
    let (listener, addr) = listener();
    let mut shell = Command::new("sh");
    let script = "exec 3<&0 0</dev/null; LISTEN_PID=1 LISTEN_FDS=1 exec \"$0\" --config \"$1\"";
    shell.args(["-c", script]).arg(command().get_program()).arg(folder.path().join("gateway.toml"));
    shell.stdin(Stdio::from(OwnedFd::from(listener.try_clone().unwrap()))).stderr(Stdio::piped());
    let mut child = shell.spawn().unwrap();
    let mut log = std::io::BufReader::new(child.stderr.take().unwrap());
    let mut text = String::new();
    eventually("the event of listening", || {
        std::io::BufRead::read_line(&mut log, &mut text).unwrap();
        text.contains("\"message\":\"listening\"").then_some(())
    });
    assert!(!text.contains(&format!(":{}\"", addr.port())), "{text}");
    signal(child.id(), "TERM");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
