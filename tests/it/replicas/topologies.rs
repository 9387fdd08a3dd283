//! Redis with Sentinels, as a Cluster and over TLS: set up on loopback, with a master that dies.

use super::{asked_of, gateway};
use crate::support::client::{self, try_send};
use crate::support::gateway::{Gateway, run, set as set_key, table};
use crate::support::parts::{self, Set};
use crate::support::redis::{Redis, SAFE, free_port};
use crate::support::scene::start_as;
use crate::support::tls::Authority;
use crate::support::{DEADLINE, eventually, within};

/// Starts a job under a key; returns its id.
///
/// A node may not know yet that its Cluster is whole: then nothing is started, and a client tries again.
fn keyed_job(gateway: &Gateway, user: &str) -> String {
    let request = start_as(user, "r").header("Idempotency-Key", "k");
    within(3 * DEADLINE, "a start that is recorded", || {
        let answer = client::send(gateway.addr(), &request);
        let is_away = answer.status == 503 && answer.field("code") == "store_unavailable";
        (!is_away).then(|| answer.field("job_id"))
    })
}

/// Checks that a job is known, and that its key makes no second one.
fn is_known(set: &Set, gateway: &Gateway, user: &str, job: &str) {
    assert_eq!(asked_of(gateway, user, job), "workers");
    assert_eq!(keyed_job(gateway, user), job);
    assert_eq!(set.jobs_of(user), (0, 1));
}

/// Starts jobs until one goes to workers again: then the store takes writes.
fn until_writes_succeed(set: &Set, gateway: &Gateway) {
    within(3 * DEADLINE, "a start on workers", || {
        let answer = try_send(gateway.addr(), &start_as(&set.user(), "r")).ok()?;
        (answer.header("x-export-backend") == Some("workers")).then_some(())
    });
}

#[test]
fn sentinels_name_the_new_master_when_the_old_one_dies() {
    let set = parts::shared();
    let mut master = Redis::start();
    let port = master.port().to_string();
    let follows = ["--replicaof", "127.0.0.1", &port, "--repl-diskless-sync-delay", "0"];
    let replica = Redis::with(&[&SAFE[..], &follows].concat());
    let conf = format!(
        "sentinel monitor main 127.0.0.1 {port} 2\nsentinel down-after-milliseconds main 500\n\
         sentinel failover-timeout main 3000\n"
    );
    let sentinels: Vec<_> = (0..3).map(|_| Redis::sentinel(&conf)).collect();
    for sentinel in &sentinels {
        within(3 * DEADLINE, "the Sentinels know each other and the replica", || {
            let said = sentinel.ask(&["SENTINEL", "MASTER", "main"]);
            let said: Vec<_> = said.lines().collect();
            let is = |name: &str, value: &str| said.chunks(2).any(|pair| pair == [name, value]);
            (is("num-other-sentinels", "2") && is("num-slaves", "1")).then_some(())
        });
    }
    let nodes: Vec<_> = sentinels.iter().map(|sentinel| sentinel.addr().to_string()).collect();
    let store = format!("redis-sentinel://{}/main", nodes.join(","));
    let gateways = [gateway(set, &store, |_| {}), gateway(set, &store, |_| {})];
    let user = set.user();
    let job = keyed_job(&gateways[0], &user);
    eventually("the replica has it", || {
        (replica.ask(&["EXISTS", &format!("export-gateway:job:{job}")]) == "1").then_some(())
    });
    eventually("and the answer", || {
        let keys = replica.ask(&["KEYS", "export-gateway:intent:*"]);
        keys.lines().any(|key| replica.ask(&["HGET", key, "state"]) == "answered").then_some(())
    });
    master.kill();
    for gateway in &gateways {
        until_writes_succeed(set, gateway);
        is_known(set, gateway, &user, &job);
    }
    assert!(replica.ask(&["ROLE"]).starts_with("master"));
    drop(sentinels);
}

#[test]
fn a_cluster_serves_as_one_store_and_survives_a_master() {
    let set = parts::shared();
    let nodes: Vec<_> = (0..4)
        .map(|_| {
            let bus = free_port().to_string();
            let cluster = ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-port", &bus];
            (Redis::with(&[&SAFE[..], &cluster].concat()), bus)
        })
        .collect();
    let (mut nodes, buses): (Vec<_>, Vec<_>) = nodes.into_iter().unzip();
    for (node, bus) in nodes.iter().zip(&buses) {
        assert_eq!(nodes[0].ask(&["CLUSTER", "MEET", "127.0.0.1", &node.port().to_string(), bus]), "OK");
    }
    for (node, range) in nodes.iter().zip([("0", "5460"), ("5461", "10922"), ("10923", "16383")]) {
        assert_eq!(node.ask(&["CLUSTER", "ADDSLOTSRANGE", range.0, range.1]), "OK");
    }
    let first = nodes[0].ask(&["CLUSTER", "MYID"]);
    within(3 * DEADLINE, "the fourth follows the first", || {
        (nodes[3].ask(&["CLUSTER", "REPLICATE", &first]) == "OK").then_some(())
    });
    for node in &nodes {
        within(3 * DEADLINE, "the Cluster is whole", || {
            let whole = node.ask(&["CLUSTER", "INFO"]).contains("cluster_state:ok");
            let known = node.ask(&["CLUSTER", "NODES"]).matches(" connected").count() == 4;
            (whole && known).then_some(())
        });
    }
    within(3 * DEADLINE, "the replica is in step", || {
        nodes[3].ask(&["INFO", "replication"]).contains("master_link_status:up").then_some(())
    });
    let store = format!("redis-cluster://{},{}", nodes[1].addr(), nodes[2].addr());
    let gateways = [gateway(set, &store, |_| {}), gateway(set, &store, |_| {})];
    let jobs: Vec<_> = (0..12)
        .map(|number| {
            let user = set.user();
            let job = keyed_job(&gateways[number % 2], &user);
            (user, job)
        })
        .collect();
    let keys = |node: &Redis| node.ask(&["KEYS", "export-gateway:*"]).lines().count();
    assert!(
        nodes[..3].iter().all(|node| keys(node) > 0),
        "spread over all: {:?}",
        nodes.iter().map(keys).collect::<Vec<_>>()
    );
    for (user, job) in &jobs {
        gateways.iter().for_each(|gateway| is_known(set, gateway, user, job));
    }
    // The command line reads it whole.
    let config = gateways[0].config_path().display().to_string();
    let file = gateways[0].folder().join("out.db").display().to_string();
    let copied = run(&["jobs", "copy", "--to", &file, "--config", &config]);
    let text = String::from_utf8_lossy(&[copied.stdout, copied.stderr].concat()).into_owned();
    assert!(text.contains("jobs: 12 copied, 0 there already") && text.contains("starts: 12 copied"), "{text}");
    eventually("the replica has all", || (keys(&nodes[0]) == keys(&nodes[3])).then_some(()));
    nodes[0].kill();
    for gateway in &gateways {
        // Of each part of the Cluster.
        for _ in 0..6 {
            until_writes_succeed(set, gateway);
        }
        jobs.iter().for_each(|(user, job)| is_known(set, gateway, user, job));
    }
}

#[test]
fn redis_is_asked_over_tls_and_only_with_a_certificate_that_proves_it() {
    let set = parts::shared();
    let authority = Authority::new();
    let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (certificate, key) = authority.files_for("127.0.0.1", folder.path());
    std::fs::write(path("ca.pem"), authority.pem()).unwrap();
    let redis = Redis::with(
        &[
            &SAFE[..],
            &["--tls-port", &port.to_string(), "--tls-cert-file", &certificate, "--tls-key-file", &key],
            &["--tls-ca-cert-file", &path("ca.pem"), "--tls-auth-clients", "no"],
        ]
        .concat(),
    );
    let mut file = table(&set.into());
    set_key(&mut file, "jobs.store", format!("rediss://127.0.0.1:{port}"));
    let trusting = Gateway::in_environment(&file.to_string(), &[("SSL_CERT_FILE", &path("ca.pem"))]);
    let user = set.user();
    let job = keyed_job(&trusting, &user);
    is_known(set, &trusting, &user, &job);
    assert_eq!(redis.ask(&["EXISTS", &format!("export-gateway:job:{job}")]), "1");
    std::fs::write(path("other.pem"), Authority::new().pem()).unwrap();
    let wary = Gateway::in_environment(&file.to_string(), &[("SSL_CERT_FILE", &path("other.pem"))]);
    let said = client::get(wary.admin(), "/readyz").text();
    assert!(said.contains("store_unavailable") && said.contains("certificate"), "{said}");
}
