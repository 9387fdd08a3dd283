//! TLS towards workers: roots of one's own, and a certificate of the gateway's.

use crate::support::client;
use crate::support::gateway::{Gateway, set, text_of};
use crate::support::parts::{quick_folder, shared};
use crate::support::scene::{calm, line_of, start_as, workers_at};
use crate::support::tls::{Authority, Certificate, Front};
use crate::support::{eventually, signal};

#[test]
fn workers_are_verified_by_the_roots_of_the_file_and_these_alone() {
    let (parts, folder) = (shared(), quick_folder("gateway-folder"));
    let (ours, others) = (Authority::new(), Authority::new());
    let front = Front::start(&ours, Certificate::Good, parts.workers.addr());
    let roots = folder.path().join("roots.pem");
    std::fs::write(&roots, others.pem()).unwrap();
    let gateway = Gateway::with(workers_at(parts, front.url()), |table| {
        calm(table);
        set(table, "backends.workers.tls.roots", roots.to_str().unwrap());
    });
    let user = parts.user();
    let unknown = client::send(gateway.addr(), &start_as(&user, "unknown-authority"));
    assert_eq!((unknown.status, unknown.header("x-export-backend")), (200, Some("legacy")));
    assert_eq!(front.bytes(), 0, "nothing was sent");
    let line = line_of(&gateway, "unknown-authority");
    assert_eq!((&line["fallback"], &line["outcome"]), (&"tls".into(), &"accepted".into()), "{line}");
    assert!(line["error"].as_str().is_some_and(|error| error.contains("invalid peer certificate")), "{line}");
    // The roots change: live, without an edit.
    std::fs::write(&roots, ours.pem()).unwrap();
    eventually("workers to be believed", || {
        let answer = client::send(gateway.addr(), &start_as(&user, "known-authority"));
        (answer.header("x-export-backend") == Some("workers")).then_some(())
    });
    assert!(front.bytes() > 0);
    // And a file that is no good leaves them as they are.
    std::fs::write(&roots, "no certificate").unwrap();
    let event = gateway.event("a key or certificate file is no good, what it held before serves on");
    assert!(text_of(&event, "problem").unwrap().contains("backends.workers.tls.roots"), "{event}");
    let answer = client::send(gateway.addr(), &start_as(&user, "still-known"));
    assert_eq!(answer.header("x-export-backend"), Some("workers"));
    signal(gateway.pid(), "HUP");
}

#[test]
fn the_gateway_shows_its_own_certificate_where_workers_ask_for_one() {
    let (parts, folder) = (shared(), quick_folder("gateway-folder"));
    let (ours, strangers) = (Authority::new(), Authority::new());
    let front = Front::demanding(&ours, parts.workers.addr());
    let roots = folder.path().join("roots.pem");
    std::fs::write(&roots, ours.pem()).unwrap();
    let (certificate, key) = strangers.files_for("gateway.example", folder.path());
    let start = |own: bool| {
        Gateway::with(workers_at(parts, front.url()), |table| {
            calm(table);
            set(table, "backends.workers.tls.roots", roots.to_str().unwrap());
            if own {
                set(table, "backends.workers.tls.certificate", certificate.as_str());
                set(table, "backends.workers.tls.key", key.as_str());
            }
        })
    };
    let user = parts.user();
    // Without one, and with a stranger's: in TLS 1.3 the refusal comes behind the gateway's own end of the handshake.
    for (gateway, id) in [(start(false), "none"), (start(true), "strange")] {
        let answer = client::send(gateway.addr(), &start_as(&user, id));
        assert_eq!((answer.status, answer.header("x-export-backend")), (200, Some("legacy")), "{id}");
        let line = line_of(&gateway, id);
        assert_eq!(line["fallback"], "tls", "{line}");
        assert!(line["error"].as_str().is_some_and(|error| error.contains("alert")), "{line}");
    }
    assert_eq!((front.bytes(), parts.jobs_of(&user)), (0, (2, 0)));
    ours.files_for("gateway.example", folder.path());
    let gateway = start(true);
    let answer = client::send(gateway.addr(), &start_as(&user, "ours"));
    assert_eq!((answer.status, answer.header("x-export-backend")), (200, Some("workers")));
    assert_eq!(parts.jobs_of(&user), (2, 1));
}
