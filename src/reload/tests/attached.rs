//! Files that the configuration names, as they change.

use super::*;

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// A good file whose tokens are checked with `keys.txt` beside it, and whose credential is in `secret.txt`.
fn with_keys(dir: &TempDir) -> String {
    fs::write(dir.path().join("keys.txt"), SECRET).unwrap();
    fs::write(dir.path().join("secret.txt"), format!("{SECRET}\n")).unwrap();
    text(1) + with_keys_tail()
}

fn keys_and_secret(setup: &Setup) -> (usize, String) {
    let table = setup.table.load_full();
    let credential = table.workers.backend.credential.as_ref().expect("there is one");
    let secret = credential.hmac.as_ref().expect("it signs").secret.value.0.clone();
    (table.identity.jwt.as_ref().expect("there are tokens").keys.count(), secret)
}

#[test]
fn files_that_the_configuration_names_are_live_when_they_change_and_stay_when_they_are_broken() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("gateway.toml");
    fs::write(&path, with_keys(&dir)).unwrap();
    let setup = watch_file(dir, path);
    assert_eq!(keys_and_secret(&setup), (1, SECRET.to_owned()));
    let (keys, secret) = (setup.dir.path().join("keys.txt"), setup.dir.path().join("secret.txt"));

    let other = SECRET.replace('0', "x");
    fs::write(&secret, &other).unwrap();
    let took = setup.wait("another secret", |setup| keys_and_secret(setup) == (1, other.clone()));
    assert!(took >= limits::CONFIG_SETTLE && took < LIVE, "{took:?}");
    let jwk = format!("{{\"kty\":\"oct\",\"k\":\"{}\"}}", "A".repeat(44));
    rename_over(&keys, &format!("{{\"keys\":[{jwk},{jwk}]}}"));
    let took = setup.wait("two keys", |setup| keys_and_secret(setup).0 == 2);
    assert!(took < LIVE, "{took:?}");

    fs::write(&keys, "{\"keys\":[").unwrap();
    let took = setup.wait("a broken file is known", |setup| !setup.status.get().stale.is_empty());
    assert!(took < LIVE, "{took:?}");
    let stale = setup.status.get().stale;
    assert!(stale[0].starts_with("identity.jwt.keys: ") && stale[0].contains("is not a JSON Web Key"), "{stale:?}");
    fs::remove_file(&secret).unwrap();
    setup.wait("a missing file is known", |setup| setup.status.get().stale.len() == 2);
    assert_eq!(keys_and_secret(&setup), (2, other.clone()), "what was good stays");

    // An edit of the configuration meanwhile applies, with what was good.
    fs::write(&setup.path, text(1).replace("percent = 1", "percent = 9") + with_keys_tail()).unwrap();
    setup.live(9);
    assert_eq!(keys_and_secret(&setup), (2, other));
    assert!(setup.status.get().is_successful());

    fs::write(&keys, SECRET).unwrap();
    fs::write(&secret, SECRET).unwrap();
    setup.wait("both are good again", |setup| setup.status.get().stale.is_empty());
    assert_eq!(keys_and_secret(&setup), (1, SECRET.to_owned()));
}

fn with_keys_tail() -> &'static str {
    "[identity.jwt]\nkeys = \"keys.txt\"\n[backends.workers.credential]\nhmac = { file = \"secret.txt\" }\n"
}

#[test]
fn an_edit_that_names_a_broken_file_is_rejected() {
    let setup = setup(&text(1));
    fs::write(setup.dir.path().join("keys.txt"), "short").unwrap();
    fs::write(&setup.path, text(2) + "[identity.jwt]\nkeys = \"keys.txt\"\n").unwrap();
    setup.wait("it is rejected", |setup| setup.problem().contains("has a secret of fewer than 32 bytes"));
    assert_eq!(setup.percent(), 1);
    // Keys of one issuer do not serve for another.
    fs::write(setup.dir.path().join("keys.txt"), SECRET).unwrap();
    fs::write(&setup.path, text(3) + "[identity.jwt]\nkeys = \"keys.txt\"\nissuer = \"a\"\n").unwrap();
    setup.live(3);
    fs::write(setup.dir.path().join("keys.txt"), "short").unwrap();
    setup.wait("it is stale", |setup| !setup.status.get().stale.is_empty());
    fs::write(&setup.path, text(4) + "[identity.jwt]\nkeys = \"keys.txt\"\nissuer = \"b\"\n").unwrap();
    setup.wait("it is rejected", |setup| setup.problem().contains("identity.jwt.keys"));
    assert_eq!(setup.percent(), 3);
}
