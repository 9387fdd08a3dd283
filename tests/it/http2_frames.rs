//! HTTP/2 that breaks its rules, section by section of RFC 9113: what the client hears, and what a backend sees.

use std::time::{Duration, Instant};

use crate::support::backend::Recorder;
use crate::support::client::get as get_plain;
use crate::support::gateway::set;
use crate::support::h2_frames::{
    CONTINUATION, Client, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PADDED, PING, PRIORITY, PUSH_PROMISE,
    RST_STREAM, SETTINGS, Verdict, WINDOW_UPDATE, away, block, frame, get, post, settings,
};
use crate::support::{eventually, within};
use crate::tls_in::Secure;

mod floods;
mod frames;
mod messages;
mod rules;

impl Secure {
    fn frames(&self) -> Client {
        Client::open(&self.trust(&["h2"]), self.gateway.addr())
    }
}

/// What may become of a case: the client's side.
#[derive(Debug, Clone, Copy)]
enum Hears {
    /// An answer of the backend.
    Ok,
    /// A refusal with this status.
    Status(u16),
    /// The stream is reset, or the connection ended, as an error.
    Error,
    /// Any refusal: an answer from 400 on, a reset, or the connection's end as an error.
    Refused,
}

impl Hears {
    fn fits(self, verdict: Verdict) -> bool {
        match (self, verdict) {
            (Hears::Ok, Verdict::Answer(200)) => true,
            (Hears::Status(wanted), Verdict::Answer(status)) => status == wanted,
            (Hears::Error | Hears::Refused, Verdict::Reset(code) | Verdict::Away(code)) => code != 0,
            (Hears::Refused, Verdict::Answer(status)) => status >= 400,
            _ => false,
        }
    }
}

type Play = fn(&mut Client);

/// Section, what is sent, what the client hears of stream 1, and how many requests a backend sees.
type Case = (&'static str, &'static str, Play, Hears, usize);

fn with(
    mut fields: Vec<(&'static str, &'static str)>,
    more: &[(&'static str, &'static str)],
) -> Vec<(&'static str, &'static str)> {
    fields.extend_from_slice(more);
    fields
}

fn without(name: &str) -> Vec<(&'static str, &'static str)> {
    get("/").into_iter().filter(|(have, _)| *have != name).collect()
}

fn instead(name: &'static str, value: &'static str) -> Vec<(&'static str, &'static str)> {
    get("/").into_iter().map(|field| if field.0 == name { (name, value) } else { field }).collect()
}

fn only(fields: &[(&str, &str)], client: &mut Client) {
    client.request(1, fields, END_STREAM);
}

#[test]
fn frames_that_break_the_rules() {
    play(frames::FRAMES);
}

#[test]
fn messages_that_break_the_rules() {
    play(messages::MESSAGES);
}

#[test]
fn the_gateways_own_rules_hold_too() {
    play(rules::RULES);
}

/// Plays each case on a connection of its own, and then a good request on another.
fn play(cases: &[Case]) {
    let recorder = Recorder::start();
    let secure = Secure::start(&recorder, |_, _| {});
    let mut wrong = Vec::new();
    for (section, what, play, hears, requests) in cases {
        recorder.forget();
        let mut client = secure.frames();
        play(&mut client);
        let stream = if what.contains("even number") { 2 } else { 1 };
        let verdict = client.verdict(stream);
        if !hears.fits(verdict) {
            wrong.push(format!("{section} {what}: {verdict:?}, not {hears:?}"));
        }
        // A body that broke off is no request that a backend could read; nothing may be there beside it.
        let (whole, strays) = (recorder.requests(), recorder.strays());
        if whole.len() > *requests || whole.iter().any(|it| it.head.line.contains("smuggled")) {
            wrong.push(format!("{section} {what}: the backend saw {whole:?} and {strays} others"));
        }
        if matches!(hears, Hears::Ok) && whole.len() != *requests {
            wrong.push(format!("{section} {what}: the backend saw {} requests", whole.len()));
        }
        for request in &whole {
            assert!(
                request.all("host").len() == 1 && request.all("connection").iter().all(|it| *it == "TE"),
                "{request:?}"
            );
        }
        println!("{section:<12} {what:<58} {verdict:?}");
        let mut healthy = secure.frames();
        healthy.request(1, &get("/healthy"), END_STREAM);
        assert_eq!(healthy.verdict(1), Verdict::Answer(200), "after {what}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    println!("{} cases", cases.len());
}
