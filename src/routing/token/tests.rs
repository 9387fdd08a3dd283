//! Tokens as they come, and as attackers write them.

use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::json;

use super::*;

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const ISSUER: &str = "https://issuer.example";
/// A token of OpenSSL's, by a key that was thrown away; it expires in 2100.
const RS256: &str = include_str!("fixtures/rs256.jwt");
const RSA_PEM: &str = include_str!("fixtures/rsa.pub.pem");
const RSA_MODULUS: &str = include_str!("fixtures/modulus");

fn base64url(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().chain([&0; 2]).take(3).fold(0_u32, |word, byte| word << 8 | u32::from(*byte));
        for at in 0..=chunk.len() {
            text.push(char::from(DIGITS[(word >> (18 - 6 * at) & 63) as usize]));
        }
    }
    text
}

fn now() -> i64 {
    jsonwebtoken::get_current_timestamp() as i64
}

fn message(head: &Value, claims: &Value) -> String {
    format!("{}.{}", base64url(head.to_string().as_bytes()), base64url(claims.to_string().as_bytes()))
}

fn hs256_with(secret: &[u8], head: &Value, claims: &Value) -> String {
    let message = message(head, claims);
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message.as_bytes());
    format!("{message}.{}", base64url(signature.as_ref()))
}

fn hs256(claims: &Value) -> String {
    hs256_with(SECRET.as_bytes(), &json!({"alg": "HS256"}), claims)
}

fn claims() -> Value {
    json!({"sub": "ann", "iss": ISSUER, "aud": "exports", "exp": now() + 60})
}

fn changed(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

fn without(name: &str) -> Value {
    let mut claims = claims();
    claims.as_object_mut().unwrap().remove(name);
    claims
}

fn keys(text: &str) -> Result<Keys, BadKeys> {
    Keys::read(text.as_bytes(), Some(ISSUER), Some("exports"))
}

fn jwt(keys: Keys) -> Jwt {
    Jwt {
        header: http::header::AUTHORIZATION,
        claim: "sub".to_owned(),
        issuer: Some(ISSUER.to_owned()),
        audience: Some("exports".to_owned()),
        file: PathBuf::new(),
        keys,
    }
}

fn user(jwt: &Jwt, token: &str) -> Result<String, BadToken> {
    user_of(jwt, token.as_bytes()).map(|user| user.as_str().to_owned())
}

fn rsa_jwk(more: &str) -> String {
    format!(r#"{{"kty":"RSA","n":"{RSA_MODULUS}","e":"AQAB"{more}}}"#)
}

#[test]
fn a_good_token_names_its_user() {
    let secret = jwt(keys(&format!("{SECRET}\n")).unwrap());
    assert_eq!(user(&secret, &hs256(&claims())), Ok("ann".to_owned()));
    let named = [
        (json!("../ann b"), Ok("annb")),
        (json!("caf\u{e9}"), Ok("caf\u{e9}")),
        (json!(12), Ok("12")),
        (json!(18_446_744_073_709_551_615_u64), Ok("18446744073709551615")),
        (json!(1.5), Err(BadToken::NoUser)),
        (json!(true), Err(BadToken::Claims)),
        (json!(""), Err(BadToken::NoUser)),
        (json!("..."), Err(BadToken::NoUser)),
        (json!("a\u{30e6}"), Err(BadToken::NoUser)),
        (json!("a".repeat(1_025)), Err(BadToken::NoUser)),
        (json!(["ann"]), Err(BadToken::NoUser)),
        (json!(null), Err(BadToken::NoUser)),
    ];
    for (claim, expected) in named {
        // Another claim than `sub`, which the library looks at itself.
        let jwt = Jwt { claim: "uid".to_owned(), ..secret.clone() };
        let expected = match expected {
            Err(BadToken::Claims) => Err(BadToken::NoUser),
            other => other.map(str::to_owned),
        };
        assert_eq!(user(&jwt, &hs256(&changed("uid", claim.clone()))), expected, "{claim}");
    }
    assert_eq!(user(&secret, &hs256(&without("sub"))), Err(BadToken::NoUser));
}

#[test]
fn times_issuer_and_audience_are_checked() {
    let jwt = jwt(keys(SECRET).unwrap());
    let cases = [
        (changed("exp", json!(now() - 10)), Ok("ann")),
        (changed("exp", json!(now() - 40)), Err(BadToken::Expired)),
        (changed("exp", json!(0)), Err(BadToken::Expired)),
        (changed("exp", json!("4102444800")), Err(BadToken::Claims)),
        (changed("exp", json!(-1)), Err(BadToken::Claims)),
        (without("exp"), Err(BadToken::Claims)),
        (changed("nbf", json!(now() + 10)), Ok("ann")),
        (changed("nbf", json!(now() + 40)), Err(BadToken::NotYet)),
        (changed("nbf", json!("soon")), Err(BadToken::Claims)),
        (changed("iss", json!("https://evil.example")), Err(BadToken::Issuer)),
        (changed("iss", json!([ISSUER, "https://other.example"])), Err(BadToken::Issuer)),
        (without("iss"), Err(BadToken::Claims)),
        (changed("aud", json!("elsewhere")), Err(BadToken::Audience)),
        (changed("aud", json!(["elsewhere", "exports"])), Ok("ann")),
        (changed("aud", json!([])), Err(BadToken::Audience)),
        (without("aud"), Err(BadToken::Claims)),
    ];
    for (claims, expected) in cases {
        assert_eq!(user(&jwt, &hs256(&claims)), expected.map(str::to_owned), "{claims}");
    }
    let open = Jwt { keys: Keys::read(SECRET.as_bytes(), None, None).unwrap(), ..jwt };
    assert_eq!(user(&open, &hs256(&without("aud"))), Ok("ann".to_owned()));
    assert_eq!(user(&open, &hs256(&without("iss"))), Err(BadToken::Audience), "it is for somebody");
}

#[test]
fn an_algorithm_is_the_keys_and_never_the_tokens_choice() {
    let claims = claims();
    let public = jwt(keys(RSA_PEM).unwrap());
    assert_eq!(user(&public, RS256), Ok("ann".to_owned()));
    // The classic: the public key, which everybody knows, as the secret of an HMAC.
    for secret in [RSA_PEM, RSA_PEM.trim(), RSA_MODULUS] {
        let forged = hs256_with(secret.as_bytes(), &json!({"alg": "HS256"}), &claims);
        assert_eq!(user(&public, &forged), Err(BadToken::NoKey));
        let renamed = hs256_with(secret.as_bytes(), &json!({"alg": "RS256"}), &claims);
        assert_eq!(user(&public, &renamed), Err(BadToken::Signature));
    }
    let secret = jwt(keys(SECRET).unwrap());
    assert_eq!(user(&secret, RS256), Err(BadToken::NoKey));
    for none in ["none", "None", "NONE", "nOnE", "", "HS256 "] {
        let message = message(&json!({"alg": none}), &claims);
        for token in [format!("{message}."), message.clone(), format!("{message}.AAAA")] {
            for jwt in [&secret, &public] {
                assert_eq!(user(jwt, &token), Err(BadToken::Malformed), "{none}");
            }
        }
    }
    for other in ["HS384", "HS512", "RS512", "PS256", "ES384", "EdDSA"] {
        let token = hs256_with(SECRET.as_bytes(), &json!({"alg": other}), &claims);
        assert_eq!(user(&secret, &token), Err(BadToken::NoKey), "{other}");
    }
    let critical = hs256_with(SECRET.as_bytes(), &json!({"alg": "HS256", "crit": ["b64"], "b64": false}), &claims);
    assert_eq!(user(&secret, &critical), Err(BadToken::Malformed));
}

#[test]
fn a_token_brings_no_key_of_its_own() {
    let public = jwt(keys(&rsa_jwk("")).unwrap());
    let own = json!({"kty": "oct", "k": base64url(SECRET.as_bytes())});
    for head in [json!({"alg": "HS256", "jwk": own}), json!({"alg": "RS256", "jwk": own, "jku": "http://evil.example"})]
    {
        assert!(user(&public, &hs256_with(SECRET.as_bytes(), &head, &claims())).is_err(), "{head}");
    }
}

#[test]
fn a_changed_token_is_refused() {
    let jwt = jwt(keys(RSA_PEM).unwrap());
    let [head, body, signature] = RS256.split('.').collect::<Vec<_>>()[..] else { panic!("three parts") };
    let bob = base64url(
        &json!({"sub": "bob", "iss": ISSUER, "aud": "exports", "exp": 4_102_444_800_i64}).to_string().into_bytes(),
    );
    let cases = [
        format!("{head}.{bob}.{signature}"),
        format!("{head}.{body}."),
        format!("{head}.{body}.{}", &signature[..signature.len() - 4]),
        format!("{head}.{body}.{signature}="),
        format!("{head}.{body}"),
        format!("{head}.{body}.{signature}.x"),
        format!(" {RS256}"),
        format!("{RS256}\u{e9}"),
        "x".to_owned(),
        String::new(),
        "..".to_owned(),
        format!("{head}.{body}.{}", "A".repeat(9_000)),
    ];
    for token in cases {
        assert!(user(&jwt, &token).is_err(), "{token}");
    }
    assert_eq!(user(&jwt, &"a".repeat(limits::TOKEN + 1)), Err(BadToken::TooLong));
}

#[test]
fn a_set_of_keys_serves_each_token_with_its_own() {
    let random = SystemRandom::new();
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &random).unwrap();
    let point = pair.public_key().as_ref();
    let es256 = |kid: &str| {
        let message = message(&json!({"alg": "ES256", "kid": kid}), &claims());
        let signature = pair.sign(&random, message.as_bytes()).unwrap();
        format!("{message}.{}", base64url(signature.as_ref()))
    };
    let ec = json!({
        "kty": "EC", "crv": "P-256", "kid": "ec-1", "use": "sig", "alg": "ES256",
        "x": base64url(&point[1..33]), "y": base64url(&point[33..]),
    });
    let rsa = rsa_jwk(r#","kid":"rsa-1","use":"sig""#);
    let old = r#"{"kty":"RSA","n":"AQAB","e":"AQAB","use":"enc","kid":"rsa-1"}"#;
    let newer =
        r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"},{"kty":"NEW","kid":"n"}"#;
    let oct = json!({"kty": "oct", "kid": "hs-1", "k": base64url(SECRET.as_bytes())});
    let jwt = jwt(keys(&format!(r#"{{"keys":[{old},{newer},{ec},{rsa},{oct}]}}"#)).unwrap());
    assert_eq!(jwt.keys.count(), 3);
    assert_eq!(user(&jwt, RS256), Ok("ann".to_owned()));
    assert_eq!(user(&jwt, &es256("ec-1")), Ok("ann".to_owned()));
    assert_eq!(user(&jwt, &es256("rsa-1")), Err(BadToken::NoKey), "the id is another key's");
    assert_eq!(user(&jwt, &hs256(&claims())), Ok("ann".to_owned()), "without an id each is tried");
    // The point of the public key is no secret of an HMAC.
    let forged = hs256_with(point, &json!({"alg": "HS256"}), &claims());
    assert_eq!(user(&jwt, &forged), Err(BadToken::Signature));
}

#[test]
fn what_holds_no_keys_is_refused_with_its_reason() {
    let private = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    let cases = [
        ("", BadKeys::ShortSecret),
        ("short", BadKeys::ShortSecret),
        ("two lines of a secret, which\nis not one", BadKeys::Unknown),
        ("{", BadKeys::Json),
        ("{}", BadKeys::NoneUsable),
        (r#"{"keys":[]}"#, BadKeys::NoneUsable),
        (r#"{"keys":[{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}]}"#, BadKeys::Json),
        (r#"{"kty":"oct","k":"AAAA"}"#, BadKeys::ShortSecret),
        (r#"{"kty":"RSA","n":"AQAB","e":"AQAB"}"#, BadKeys::ShortRsa),
        (private, BadKeys::Private),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", BadKeys::Certificate),
        ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", BadKeys::Pem),
        (&RSA_PEM[..200], BadKeys::Pem),
        (include_str!("fixtures/rsa1024.pub.pem"), BadKeys::ShortRsa),
        (include_str!("fixtures/p384.pub.pem"), BadKeys::Pem),
    ];
    for (text, expected) in cases {
        assert_eq!(keys(text).map(|keys| keys.count()), Err(expected), "{text}");
    }
    let many = vec![rsa_jwk(""); limits::TOKEN_KEYS + 1].join(",");
    assert_eq!(keys(&format!(r#"{{"keys":[{many}]}}"#)).map(|keys| keys.count()), Err(BadKeys::TooMany));
    assert_eq!(keys(&RSA_PEM.repeat(2)).unwrap().count(), 2, "two for a rotation");
    assert!(Keys::read(b"\xff\xfe", None, None).is_err());
}

#[test]
fn no_key_is_shown() {
    let shown = format!("{:?}", jwt(keys(SECRET).unwrap()));
    assert!(shown.contains("Keys(1)") && !shown.contains(SECRET), "{shown}");
}

#[test]
fn what_a_header_is_refused_for_is_refused_in_a_claim() {
    let jwt = jwt(keys(SECRET).unwrap());
    for odd in ["ann\u{0}", "ann\r\n", "a,nn", "ann\u{7f}", "\u{100}ann"] {
        assert_eq!(user(&jwt, &hs256(&changed("sub", json!(odd)))), Err(BadToken::NoUser), "{odd:?}");
    }
    assert_eq!(user(&jwt, &hs256(&changed("sub", json!("a.n n")))).as_deref(), Ok("ann"));
}

#[test]
fn an_issuer_is_one_text() {
    let jwt = jwt(keys(SECRET).unwrap());
    for odd in [json!([ISSUER]), json!([ISSUER, "https://other.example"])] {
        assert_eq!(user(&jwt, &hs256(&changed("iss", odd))), Err(BadToken::Issuer));
    }
}

#[test]
fn a_private_key_is_refused_in_json_too() {
    let pair = json!({"kty": "RSA", "n": RSA_MODULUS.trim(), "e": "AQAB", "d": "AAAA"});
    let odd = json!({"kty": "OKP", "crv": "Ed25519", "x": "AA", "d": "AA"});
    let public = json!({"kty": "RSA", "n": RSA_MODULUS.trim(), "e": "AQAB"});
    assert_eq!(keys(&pair.to_string()).err(), Some(BadKeys::Private));
    for private in [&pair, &odd] {
        assert_eq!(keys(&json!({"keys": [public, private]}).to_string()).err(), Some(BadKeys::Private));
    }
    assert!(keys(&json!({"keys": [public]}).to_string()).is_ok());
}
