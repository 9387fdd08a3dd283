//! The same cases against nginx and haproxy, as Debian has them: some must fail there, or the suite could not.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::judge::{Section, Target, tabulate};
use super::{chunks, connection, fields, framing, parsing, request_line, semantics};
use crate::support::backend::Recorder;
use crate::support::eventually;
use crate::support::gateway::Gateway;

/// A proxy that is measured beside us; ended when dropped.
struct Peer {
    child: Child,
    addr: SocketAddr,
    _folder: TempDir,
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn start(config: impl Fn(u16, &Path) -> String, command: impl Fn(&Path) -> Command) -> Peer {
    let (folder, port) = (TempDir::new().unwrap(), free_port());
    let file = folder.path().join("peer.conf");
    fs::write(&file, config(port, folder.path())).unwrap();
    let child =
        command(&file).stdin(Stdio::null()).stderr(Stdio::null()).spawn().expect("apt-get install nginx haproxy");
    let addr = SocketAddr::from(([127, 0, 0, 1], port));
    eventually("the peer to listen", || TcpStream::connect(addr).ok());
    Peer { child, addr, _folder: folder }
}

fn nginx(backend: SocketAddr) -> Peer {
    let config = |port: u16, folder: &Path| {
        let folder = folder.display();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|it| format!("{it}_temp_path {folder}/{it};\n"))
            .concat();
        format!(
            "worker_processes 1; daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;\n\
             events {{ worker_connections 256; }}\nhttp {{ access_log off; {temporary}\n\
             upstream up {{ server {backend}; keepalive 8; }}\n\
             server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://up; proxy_http_version 1.1;\n\
             proxy_request_buffering off; proxy_set_header Connection \"\"; proxy_set_header Host $http_host;\n\
             proxy_set_header X-Forwarded-For $remote_addr; }} }} }}\n"
        )
    };
    start(config, |file| {
        let mut command = Command::new("/usr/sbin/nginx");
        command.arg("-e").arg(file.with_file_name("error.log")).arg("-c").arg(file);
        command
    })
}

fn haproxy(backend: SocketAddr) -> Peer {
    let config = |port: u16, _: &Path| {
        format!(
            "defaults\n mode http\n timeout client 5s\n timeout server 5s\n timeout connect 1s\n option forwardfor\n\
             frontend in\n bind 127.0.0.1:{port}\n default_backend up\nbackend up\n server one {backend}\n"
        )
    };
    start(config, |file| {
        let mut command = Command::new("/usr/sbin/haproxy");
        command.arg("-db").arg("-q").arg("-f").arg(file);
        command
    })
}

fn all() -> Vec<Section> {
    let ours = semantics::sections().into_iter().filter(|(section, _)| !semantics::is_ours(section));
    [parsing::sections(), request_line::sections(), fields::sections(), framing::sections(), chunks::sections()]
        .into_iter()
        .chain([connection::sections()])
        .flatten()
        .chain(ours)
        .filter(|(section, _)| !section.starts_with("failures.md") && !section.starts_with("RFC 7239"))
        .collect()
}

#[test]
#[ignore = "needs nginx and haproxy, and some minutes: make suites"]
fn nginx_and_haproxy_fail_where_the_gateway_does_not() {
    let recorder = Recorder::start();
    let gateway = Gateway::start(&recorder);
    let backend = recorder.backend.addr();
    let (nginx, haproxy) = (nginx(backend), haproxy(backend));
    let sections = all();
    let mut found = Vec::new();
    for (name, addr) in [("export-gateway", gateway.addr()), ("nginx", nginx.addr), ("haproxy", haproxy.addr)] {
        let target = Target { addr, recorder: &recorder, patience: Duration::from_secs(2) };
        let (table, failures) = tabulate(&sections, &target);
        println!("{name}\n\n{table}\n{}\n", failures.join("\n"));
        found.push((name, failures.len()));
    }
    println!("cases that fail: {found:?}");
    assert_eq!(found[0].1, 0, "the gateway fails none");
    assert!(found[1].1 > 20 && found[2].1 > 20, "{found:?}");
}
