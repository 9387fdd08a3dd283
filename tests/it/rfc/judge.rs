//! Plays a case and judges it by what the client got and by the raw bytes that the backend got.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use crate::support::backend::{Received, Recorder};
use crate::support::client::Connection;
use crate::support::gateway::Gateway;
use crate::support::wire::{Head, ReadError, find, latin1};

const BEHIND: &[u8] = b"GET /behind HTTP/1.1\r\nHost: h\r\n\r\n";
const BEFORE_GET: &[u8] = b"GET /before HTTP/1.1\r\nHost: h\r\n\r\n";
const BEFORE_CHUNKED: &[u8] =
    b"POST /before HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\n#\n#\r\n0\r\n\r\n";

/// Stands for the client's address among the values that a field must have.
pub(crate) const CLIENT: &str = "{client}";

/// Returns an address of the loopback network that no other case has.
fn fresh_client() -> IpAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let [high, low] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    Ipv4Addr::new(127, 1, high, low).into()
}

/// What must come of some bytes.
#[derive(Debug, Clone)]
pub(crate) enum Expect {
    /// 400 (431, 501, 505), nothing forwarded, the connection closed.
    Refuse,
    /// This status, nothing forwarded; the connection closed or as good as before.
    Status(u16),
    /// At most an answer 400, nothing forwarded, the connection closed.
    Closed,
    /// Exactly this request, and then the one behind it.
    Accept(Seen),
    /// Exactly this request, and the end of the connection.
    Last(Seen),
    /// Refused; or exactly this request, and the end or the one behind it.
    Either(Seen),
    /// An answer 4xx or a cut; no whole request is forwarded, and nothing behind it.
    NeverWhole,
}

/// A request as the backend must see it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    line: Option<String>,
    body: Option<Vec<u8>>,
    fields: Vec<(String, Vec<String>)>,
}

/// Some bytes and what must come of them.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) bytes: Vec<u8>,
    pub(crate) expect: Expect,
}

/// Writes a head with `\n` for line ends.
pub(crate) fn lines(head: &str) -> Vec<u8> {
    head.replace('\n', "\r\n").into_bytes()
}

/// A GET with further field lines.
pub(crate) fn get(fields: &str) -> Vec<u8> {
    lines(&format!("GET /x HTTP/1.1\nHost: h\n{fields}\n\n"))
}

/// A POST with further field lines and a body as it is.
pub(crate) fn post(fields: &str, body: &str) -> Vec<u8> {
    [lines(&format!("POST /x HTTP/1.1\nHost: h\n{fields}\n\n")), body.as_bytes().to_vec()].concat()
}

impl Case {
    pub(crate) fn new(bytes: impl Into<Vec<u8>>, expect: Expect) -> Case {
        Case { bytes: bytes.into(), expect }
    }
    pub(crate) fn refuse(bytes: impl Into<Vec<u8>>) -> Case {
        Case::new(bytes, Expect::Refuse)
    }
    pub(crate) fn accept(bytes: impl Into<Vec<u8>>) -> Case {
        Case::new(bytes, Expect::Accept(Seen::default()))
    }
    pub(crate) fn last(bytes: impl Into<Vec<u8>>) -> Case {
        Case::new(bytes, Expect::Last(Seen::default()))
    }
    pub(crate) fn either(bytes: impl Into<Vec<u8>>) -> Case {
        Case::new(bytes, Expect::Either(Seen::default()))
    }

    fn seen(mut self, change: impl FnOnce(&mut Seen)) -> Case {
        match &mut self.expect {
            Expect::Accept(seen) | Expect::Last(seen) | Expect::Either(seen) => change(seen),
            other => panic!("{other:?} lets nothing be seen"),
        }
        self
    }
    /// The request line at the backend.
    pub(crate) fn line(self, line: &str) -> Case {
        self.seen(|seen| seen.line = Some(line.into()))
    }
    /// The body at the backend.
    pub(crate) fn body(self, body: &str) -> Case {
        self.seen(|seen| seen.body = Some(body.as_bytes().to_vec()))
    }
    /// All values of a field at the backend, read as Latin-1.
    pub(crate) fn field(self, name: &str, values: &[&str]) -> Case {
        self.seen(|seen| seen.fields.push((name.into(), values.iter().map(|&it| it.to_owned()).collect())))
    }

    /// The same bytes behind another message, where they are to be refused.
    fn placed(&self) -> Vec<(&'static [u8], usize)> {
        match self.expect {
            Expect::Refuse => vec![(b"", 0), (BEFORE_GET, 1), (BEFORE_CHUNKED, 1)],
            _ => vec![(b"", 0)],
        }
    }
}

/// Who is judged: a server before a recording backend.
pub(crate) struct Target<'a> {
    pub(crate) addr: SocketAddr,
    pub(crate) recorder: &'a Recorder,
    pub(crate) patience: Duration,
}

#[derive(Debug)]
struct Verdict {
    client: IpAddr,
    statuses: Vec<u16>,
    closed: bool,
    requests: Vec<Received>,
    strays: usize,
}

impl Target<'_> {
    /// Plays all placements of a case; returns what is wrong with each, and how many there were.
    pub(crate) fn play(&self, case: &Case) -> (usize, Vec<String>) {
        let placed = case.placed();
        let failures = placed.iter().filter_map(|(before, count)| {
            let found = self.send(&[before, &case.bytes[..], BEHIND].concat(), count + 2);
            let said = found.and_then(|verdict| judge(&case.expect, *count, &verdict));
            said.err().map(|what| format!("{:?} behind {count}: {what}", latin1(&case.bytes)))
        });
        let failures = failures.collect();
        (placed.len(), failures)
    }

    fn send(&self, bytes: &[u8], enough: usize) -> Result<Verdict, String> {
        self.recorder.forget();
        // An address of its own: what an earlier case left on its way to the backend is not taken for this one's.
        let client = fresh_client();
        let mut connection = Connection::open_from(client, self.addr).deadline(self.patience);
        connection.send(bytes);
        let mut statuses = Vec::new();
        let closed = loop {
            match connection.read("GET") {
                Ok(answer) => statuses.push(answer.status),
                Err(ReadError::Closed | ReadError::Reset | ReadError::Cut(_)) => break true,
                Err(error) => return Err(format!("{error:?} after {statuses:?}")),
            }
            if statuses.len() == enough {
                break false;
            }
        };
        let is_ours = |head: &Head| find(&head.headers, "x-forwarded-for").iter().all(|it| *it == client.to_string());
        let mut requests = self.recorder.requests();
        requests.retain(|request| is_ours(&request.head));
        let strays = self.recorder.stray_heads().iter().filter(|head| head.as_ref().is_none_or(is_ours)).count();
        Ok(Verdict { client, statuses, closed, requests, strays })
    }
}

fn judge(expect: &Expect, before: usize, verdict: &Verdict) -> Result<(), String> {
    let Verdict { client, statuses, closed, requests, strays } = verdict;
    let need = |holds: bool, what: &str| if holds { Ok(()) } else { Err(format!("{what}: {verdict:?}")) };
    requests.iter().try_for_each(check_forwarded)?;
    need(statuses.len() >= before && statuses[..before].iter().all(|it| *it == 200), "the message before it failed")?;
    need(requests.len() >= before, "the message before it is missing")?;
    let (after, forwarded) = (&statuses[before..], &requests[before..]);
    let refusals = [400, 431, 501, 505];
    match expect {
        Expect::Refuse => {
            need(matches!(after, [status] if refusals.contains(status)), "not refused")?;
            need(*closed, "refused, but not closed")?;
            need(forwarded.is_empty() && *strays == 0, "something was forwarded")
        }
        Expect::Status(status) => {
            need(after.first() == Some(status), "another answer")?;
            let behind_only = forwarded.iter().all(|it| it.head.line.starts_with("GET /behind "));
            need(behind_only && *strays == 0, "something was forwarded")?;
            need(*closed || after.len() == 2, "neither closed nor as before")
        }
        Expect::Closed => {
            need(*closed && matches!(after, [] | [400]), "not closed")?;
            need(forwarded.is_empty() && *strays == 0, "something was forwarded")
        }
        Expect::Accept(seen) => {
            need(after == [200, 200] && forwarded.len() == 2 && *strays == 0, "not one request and the one behind")?;
            need(forwarded[1].head.line.starts_with("GET /behind "), "the one behind is another")?;
            seen.compare(&forwarded[0], client)
        }
        Expect::Last(seen) => {
            need(after == [200] && *closed && forwarded.len() == 1 && *strays == 0, "not one request and the end")?;
            seen.compare(&forwarded[0], client)
        }
        Expect::Either(seen) => match (after, forwarded) {
            ([status], []) if refusals.contains(status) => need(*closed && *strays == 0, "refused, but not closed"),
            ([200], [one]) => {
                need(*closed && *strays == 0, "one, but not the end").and_then(|()| seen.compare(one, client))
            }
            ([200, 200], [one, behind]) => {
                need(behind.head.line.starts_with("GET /behind "), "the one behind is another")?;
                seen.compare(one, client)
            }
            _ => need(false, "neither refused nor one request"),
        },
        Expect::NeverWhole => {
            need(*closed && forwarded.is_empty(), "forwarded as whole, or not closed")?;
            need(matches!(after, [] | [400 | 408 | 413 | 431 | 502]), "another answer")
        }
    }
}

impl Seen {
    fn compare(&self, request: &Received, client: &IpAddr) -> Result<(), String> {
        let need = |holds: bool, what: &str| if holds { Ok(()) } else { Err(format!("{what} differs: {request:?}")) };
        need(self.line.as_ref().is_none_or(|line| *line == request.head.line), "request line")?;
        need(self.body.as_ref().is_none_or(|body| *body == request.body.bytes), "body")?;
        let expected = |values: &[String]| -> Vec<String> {
            values.iter().map(|value| value.replace(CLIENT, &client.to_string())).collect()
        };
        self.fields.iter().try_for_each(|(name, values)| need(request.all(name) == expected(values), name))
    }
}

/// What holds for every request that is forwarded, whatever the case: nobody can read it in two ways.
fn check_forwarded(request: &Received) -> Result<(), String> {
    let text = latin1(&request.head.raw);
    let need = |holds: bool, what: &str| if holds { Ok(()) } else { Err(format!("forwarded {what}: {text:?}")) };
    let words: Vec<_> = request.head.line.split(' ').collect();
    need(words.len() == 3 && words[2].starts_with("HTTP/1."), "a bad request line")?;
    let in_line = |byte: u8| byte.is_ascii_graphic() || byte == b' ';
    need(
        request.head.raw.split(|it| *it == b'\r').next().unwrap_or_default().iter().all(|it| in_line(*it)),
        "a control byte",
    )?;
    need(!words[1].contains('#'), "a fragment")?;
    let head = text.strip_suffix("\r\n\r\n").unwrap_or_default();
    for line in head.split("\r\n").skip(1) {
        let (name, value) = line.split_once(':').unwrap_or((line, "\0"));
        let is_name = |letter: char| letter.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(letter);
        need(!name.is_empty() && name.chars().all(is_name), "a bad field name")?;
        need(!value.chars().any(|it| it.is_ascii_control() && it != '\t'), "a control byte in a value")?;
    }
    need(request.all("host").len() == 1, "no Host, or several")?;
    let framings = request.all("content-length").len() + request.all("transfer-encoding").len();
    need(framings <= 1, "two framings")?;
    need(request.all("transfer-encoding").iter().all(|it| *it == "chunked"), "another coding")
}

/// A section's name and cases.
pub(crate) type Section = (&'static str, Vec<Case>);

/// Plays sections against the gateway, prints a table and fails with everything that is wrong.
pub(crate) fn hold(sections: Vec<Section>) {
    let recorder = Recorder::start();
    let gateway = Gateway::start(&recorder);
    let target = Target { addr: gateway.addr(), recorder: &recorder, patience: Duration::from_secs(10) };
    let (table, failures) = tabulate(&sections, &target);
    println!("{table}");
    assert!(failures.is_empty(), "{} cases fail:\n{}\n{table}", failures.len(), failures.join("\n"));
}

/// Plays sections and returns a table of them, with all that is wrong.
pub(crate) fn tabulate(sections: &[Section], target: &Target<'_>) -> (String, Vec<String>) {
    let (mut table, mut failures) = ("| section | cases | passed |\n| --- | --- | --- |\n".to_owned(), Vec::new());
    let mut total = (0, 0);
    for (name, cases) in sections {
        let mut played = 0;
        let mut failed = Vec::new();
        for case in cases {
            let (count, wrong) = target.play(case);
            played += count;
            failed.extend(wrong.into_iter().map(|what| format!("{name}: {what}")));
        }
        table += &format!("| {name} | {played} | {} |\n", played - failed.len());
        total = (total.0 + played, total.1 + failed.len());
        failures.extend(failed);
    }
    table += &format!("| all | {} | {} |\n", total.0, total.0 - total.1);
    (table, failures)
}
