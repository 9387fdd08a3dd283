//! How users and the gateway itself prove who they are, as it stands in the file.

use super::*;

#[test]
fn no_secret_is_shown_whatever_is_wrong_with_it() {
    let cases = [
        "credential = \"hunter2\"\n",
        "credential = { hmca = \"hunter2\" }\n",
        "credential = { hmac = 7717711771177 }\n",
        "credential = { hmac = 77177.1 }\n",
        "credential = { hmac = [\"hunter2\"] }\n",
        "credential = { hmac = \"hunter2 hunter2\" }\n",
        "credential = { hmac = { fil = \"hunter2\" } }\n",
        "credential = { key_id = [\"hunter2\"], hmac = \"hunter2\" }\n",
        "credential = [\"hunter2\"]\n",
        "credential = { access_client_id = \"hunter2\" }\n",
        "[backends.workers.credential]\nbearer = hunter2\n",
        "[backends.workers.credential]\nbearer = \"hunter2\n",
        "[rollout]\nbearer = \"hunter2\"\n",
        "[admin]\ntoken = 7717711771177\n",
        "[admin]\ntoken = [\"hunter2\"]\n",
    ];
    for text in cases {
        let problems = with_urls(text).expect_err(text);
        for problem in &problems {
            let shown = format!("{}{}{problem:?}", problem.long(), problem.line());
            assert!(!shown.contains("hunter2") && !shown.contains("77177"), "{text}: {shown}");
        }
    }
}

#[test]
fn a_credential_is_compiled_and_what_is_unwise_about_it_is_said() {
    let long = "0123456789abcdef0123456789abcdef";
    let text = "credential = { bearer = \"${DIGITS}\", hmac = { file = \"hmac.txt\" }, key_id = \"1\" }\n\
         websocket = \"gateway\"\n[server]\npublic_url = \"https://g\"\n";
    let (table, warnings) = with_urls(text).expect("it is good");
    let credential = table.workers.backend.credential.expect("there is one");
    assert_eq!(credential.bearer.map(|held| held.value.0), Some("12345678901234567890".to_owned()));
    let hmac = credential.hmac.expect("there is one");
    assert_eq!((hmac.secret.file.as_deref(), hmac.key_id.as_deref()), (Some(Path::new("/srv/gw/hmac.txt")), Some("1")));
    assert!(table.legacy.credential.is_none());
    assert!(!warnings.iter().any(|warning| warning.key.starts_with("backends")), "{warnings:?}");
    let unwise = [
        (format!("credential = {{ hmac = \"{long}\" }}\n"), "credential.hmac: stands in the file"),
        ("credential = { hmac = \"${DIGITS}\" }\n".to_owned(), "credential.hmac: is short"),
        (
            "credential = { access_client_id = \"${DIGITS}\", access_client_secret = \"${DIGITS}\" }\n".to_owned(),
            "websocket: browsers have no service token",
        ),
    ];
    for (text, expected) in unwise {
        let (_, warnings) = with_urls(&text).expect("it is good");
        let lines: Vec<String> = warnings.iter().map(ToString::to_string).collect();
        assert!(lines.iter().any(|line| line.contains(expected)), "{text}: {lines:?}");
        assert!(!lines.iter().any(|line| line.contains(long)), "{lines:?}");
    }
    let clear = "[backends.legacy]\nurl = \"http://l\"\n[backends.workers]\nurl = \"http://w\"\ncredential = { bearer = \"${DIGITS}\" }\n";
    let (_, warnings) = load_text(clear).expect("it is good");
    assert!(warnings.iter().any(|warning| warning.message.contains("goes over the network")), "{warnings:?}");
}

#[test]
fn with_a_cookie_or_a_token_nobody_may_set_the_header_unless_listed() {
    for (text, expected) in [
        ("cookie = \"uid\"", vec![]),
        ("cookie = \"uid\"\ntrusted = []", vec![]),
        ("cookie = \"uid\"\ntrusted = [\"10.0.0.0/8\"]", vec!["10.0.0.0/8".parse().expect("a network")]),
        ("jwt = { keys = \"keys/jwks.json\", issuer = \"i\", audience = \"a\" }", vec![]),
    ] {
        let (table, warnings) = with_urls(&format!("[identity]\n{text}\n")).expect(text);
        assert_eq!(table.identity.trusted, Trusted::Networks(expected), "{text}");
        assert!(!warnings.iter().any(|warning| warning.key.starts_with("identity")), "{warnings:?}");
        if let Some(jwt) = table.identity.jwt {
            assert_eq!((jwt.header.as_str(), jwt.claim.as_str(), jwt.keys.count()), ("authorization", "sub", 0));
            assert_eq!(jwt.file, Path::new("/srv/gw/keys/jwks.json"));
        }
    }
    let (_, warnings) = with_urls("[identity.jwt]\nkeys = \"k\"\n").expect("it is good");
    let keys: Vec<&str> = warnings.iter().map(|warning| warning.key.as_str()).collect();
    assert_eq!(keys, ["identity.jwt.issuer", "identity.jwt.audience", "exports"]);
}
