//! The upstream: answers from memory on one thread, much cheaper than any proxy. `upstream PORT [LETTER]`.
//!
//! `GET /kib` 1 KiB of the letter · `POST /echo` the body again · `GET /bytes/N` N bytes of the pattern · `POST /sink`
//! takes anything · `GET /ws…` a WebSocket that greets and is silent · the Worker's start and status, both backends' forms.

use std::fmt::Write as _;
use std::io;
use std::rc::Rc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bench_tools::{PATTERN, head_end};
use sha1::{Digest, Sha1};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::{LocalSet, spawn_local};

/// Longest request head and longest body that is held, bytes.
const HELD: usize = 1 << 20;

struct Answers {
    kib: Vec<u8>,
    next_job: std::cell::Cell<u64>,
}

/// What of a request's head decides its answer.
struct Head {
    method: String,
    path: String,
    length: u64,
    key: Option<String>,
    end: usize,
}

fn main() -> io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let port: u16 = arguments.next().and_then(|it| it.parse().ok()).expect("usage: upstream PORT [LETTER]");
    let letter = arguments.next().unwrap_or_else(|| "x".into());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    LocalSet::new().block_on(&runtime, serve(port, letter))
}

async fn serve(port: u16, letter: String) -> io::Result<()> {
    let kib = answer("text/plain", letter.repeat(1024).as_bytes());
    let answers = Rc::new(Answers { kib, next_job: std::cell::Cell::new(1) });
    let listener = listen(port)?;
    loop {
        let (stream, _) = listener.accept().await?;
        let answers = answers.clone();
        // A connection that breaks concerns nobody but its client, who counts it.
        spawn_local(async move { drop(talk(stream, &answers).await) });
    }
}

fn listen(port: u16) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(([127, 0, 0, 1], port).into())?;
    socket.listen(16_384)
}

async fn talk(mut stream: TcpStream, answers: &Answers) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut held = Vec::with_capacity(2048);
    loop {
        let head = loop {
            if let Some(head) = parse(&held)? {
                break head;
            }
            if held.len() > HELD || stream.read_buf(&mut held).await? == 0 {
                return Ok(());
            }
        };
        held.drain(..head.end);
        match (head.method.as_str(), head.path.as_str()) {
            ("GET", "/kib" | "/") => stream.write_all(&answers.kib).await?,
            ("GET", path) if path.starts_with("/bytes/") => send_pattern(&mut stream, &path["/bytes/".len()..]).await?,
            ("POST", "/sink") => swallow(&mut stream, &mut held, head.length).await?,
            ("GET", _) if head.key.is_some() => return greet(stream, &head.key.unwrap_or_default()).await,
            ("GET", path) if path.contains("/status/") => {
                let job = path.rsplit('/').next().unwrap_or_default();
                let text = format!(r#"{{"job_id":"{job}","status":"processing","progress":50}}"#);
                stream.write_all(&answer("application/json", text.as_bytes())).await?;
            }
            ("POST", path) if head.length <= HELD as u64 => {
                let length = head.length as usize;
                while held.len() < length {
                    if stream.read_buf(&mut held).await? == 0 {
                        return Ok(());
                    }
                }
                let reply = match path.ends_with("/start") {
                    true => answer("application/json", new_job(answers).as_bytes()),
                    false => answer("application/octet-stream", &held[..length]),
                };
                held.drain(..length);
                stream.write_all(&reply).await?;
            }
            _ => return stream.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").await,
        }
    }
}

fn parse(bytes: &[u8]) -> io::Result<Option<Head>> {
    let Some(end) = head_end(bytes) else { return Ok(None) };
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut fields);
    request.parse(&bytes[..end]).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    let mut head = Head {
        method: request.method.unwrap_or_default().to_owned(),
        path: request.path.unwrap_or_default().to_owned(),
        length: 0,
        key: None,
        end,
    };
    for field in request.headers.iter() {
        let value = std::str::from_utf8(field.value).unwrap_or_default();
        if field.name.eq_ignore_ascii_case("content-length") {
            head.length = value.parse().map_err(|_| io::ErrorKind::InvalidData)?;
        } else if field.name.eq_ignore_ascii_case("sec-websocket-key") {
            head.key = Some(value.to_owned());
        } else if field.name.eq_ignore_ascii_case("transfer-encoding") {
            return Err(io::ErrorKind::Unsupported.into());
        }
    }
    Ok(Some(head))
}

fn answer(content_type: &str, body: &[u8]) -> Vec<u8> {
    let mut head = String::new();
    let _ = write!(head, "HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// A job as a Worker makes it: an id of the form of a UUID.
fn new_job(answers: &Answers) -> String {
    let number = answers.next_job.replace(answers.next_job.get() + 1);
    format!(r#"{{"job_id":"{:08x}-0000-4000-8000-{number:012x}","status":"processing"}}"#, std::process::id())
}

async fn send_pattern(stream: &mut TcpStream, length: &str) -> io::Result<()> {
    let mut left: usize = length.parse().map_err(|_| io::ErrorKind::InvalidData)?;
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: video/mp4\r\ncontent-length: {left}\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    while left > 0 {
        let piece = left.min(PATTERN.len());
        stream.write_all(&PATTERN[..piece]).await?;
        left -= piece;
    }
    Ok(())
}

async fn swallow(stream: &mut TcpStream, held: &mut Vec<u8>, length: u64) -> io::Result<()> {
    let mut offset = held.len() as u64;
    let mut is_right = bench_tools::is_pattern(held, 0);
    held.clear();
    let mut scratch = vec![0; 256 * 1024];
    while offset < length {
        let read = stream.read(&mut scratch).await?;
        if read == 0 {
            return Ok(());
        }
        is_right &= bench_tools::is_pattern(&scratch[..read], offset);
        offset += read as u64;
    }
    let text = format!(r#"{{"size":{offset},"right":{is_right}}}"#);
    stream.write_all(&answer("application/json", text.as_bytes())).await
}

/// Answers a WebSocket's handshake, sends one text frame, and waits for the end.
async fn greet(mut stream: TcpStream, key: &str) -> io::Result<()> {
    let accept = STANDARD.encode(Sha1::digest(format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11")));
    let head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-accept: {accept}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(b"\x81\x05hello").await?;
    let mut scrap = [0; 64];
    while stream.read(&mut scrap).await? > 0 {}
    Ok(())
}
