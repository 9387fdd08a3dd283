//! Any body as a start and as an answer, against `serde_json` and a plain re-reading of the members.

use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderValue};
use serde_json::Value;

use super::{choice, json};
use crate::exports::answer::{self, JobStatus};
use crate::exports::translate;
use crate::limits;
use crate::routing::table::{Export, InputKey, Share, UrlLookup};

const KEY: &str = "working_videos/a\"\u{e9}.mp4";

fn export(by_field: bool, listed: bool) -> Export {
    let input_key = if by_field {
        InputKey::Field("input_key".to_owned())
    } else {
        InputKey::Url(UrlLookup {
            path: "/p/{project_id}".into(),
            pointer: "/f".into(),
            key: "{filename}".into(),
            missing: "m".into(),
        })
    };
    let params = listed.then(|| ["a", "effect_type", "input_key", "project_id"].map(str::to_owned).into());
    Export { params, share: Share::default(), input_key }
}

/// The first byte chooses the export's settings and the content type.
pub(super) fn translate(bytes: &[u8]) {
    let (settings, body) = choice(bytes);
    let export = export(settings & 1 != 0, settings & 2 != 0);
    let mut headers = HeaderMap::new();
    let content_type = ["application/json", "application/x+json; charset=utf-8", "text/json", "APPLICATION/JSON "];
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type[usize::from(settings >> 2 & 3)]));
    if settings & 0x80 != 0 {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    let is_json = settings >> 2 & 3 != 2 && settings & 0x80 == 0;
    let start = match translate::read(&headers, body, &export) {
        Ok(start) => start,
        Err(_) => return assert!(!is_json || !is_plain(body, &export), "a plain start was refused"),
    };
    assert!(is_json, "not said to be JSON");
    let text = std::str::from_utf8(body).expect("JSON is UTF-8");
    let members = json::members(text);
    let named = |name: &str| members.iter().rfind(|(key, _)| json::decoded(key).as_deref() == Some(name));
    let project = named("project_id").expect("a start without a project").1;
    assert!(is_project(project, start.project_id()), "{project} is not {}", start.project_id());
    let key = match &export.input_key {
        InputKey::Field(name) => {
            let sent = named(name).and_then(|(_, value)| json::decoded(value)).expect("no input key");
            assert_eq!(start.field_input_key(), Some(sent.as_str()));
            assert!(!sent.is_empty() && !sent.chars().any(char::is_control), "{sent:?}");
            assert!(!sent.split(['/', '\\']).any(|segment| segment == ".."), "{sent:?}");
            sent
        }
        _ => KEY.to_owned(),
    };
    let mut params: Vec<(String, &str, &str)> = Vec::new();
    for (raw, value) in &members {
        let name = json::decoded(raw).expect("a key is a text");
        let is_listed = match &export.params {
            Some(names) => names.contains(&name),
            None => name != "project_id",
        };
        if !is_listed || (name == "input_key" && matches!(export.input_key, InputKey::Field(_))) {
            continue;
        }
        match params.iter_mut().find(|(earlier, ..)| *earlier == name) {
            Some((_, _, earlier)) => *earlier = value,
            None => params.push((name, raw, value)),
        }
    }
    // Byte for byte: the spelling of numbers, the escapes and the order are the client's.
    let params: Vec<_> = params.iter().map(|(_, raw, value)| format!("{raw}:{value}")).collect();
    let written = serde_json::to_string(&key).expect("a text is JSON");
    let expected =
        format!(r#"{{"project_id":{},"input_key":{written},"params":{{{}}}}}"#, start.project_id(), params.join(","));
    let composed = start.compose(&key);
    assert_eq!(String::from_utf8_lossy(&composed), expected);
    if let (Ok(before), Ok(after)) = (serde_json::from_slice::<Value>(body), serde_json::from_slice::<Value>(&composed))
    {
        assert_eq!(after["project_id"], start.project_id());
        assert_eq!(after["input_key"], key);
        for (name, value) in after["params"].as_object().expect("params are an object") {
            assert_eq!(Some(value), before.get(name), "{name}");
        }
    }
}

/// Says whether a body is a start that nobody could read in two ways.
fn is_plain(body: &[u8], export: &Export) -> bool {
    let Ok(Value::Object(object)) = serde_json::from_slice::<Value>(body) else { return false };
    let text = std::str::from_utf8(body).unwrap_or_default();
    object.get("project_id").is_some_and(Value::is_i64)
        && matches!(export.input_key, InputKey::Url(_))
        && json::members(text).len() <= limits::JSON_FIELDS
}

fn is_project(raw: &str, project: i64) -> bool {
    let text = raw.trim_matches('"');
    match text.parse::<i64>() {
        Ok(number) => number == project,
        // As far as a float can tell.
        Err(_) => text.parse::<f64>().is_ok_and(|number| number == project as f64),
    }
}

pub(super) fn answer(bytes: &[u8]) {
    const URL: &str = "wss://h/api/jobs/j/ws?\"\\";
    let completed = answer::complete(bytes, URL);
    let named = answer::read_start(bytes);
    if let Ok(named) = &named {
        let text = std::str::from_utf8(bytes).expect("JSON is UTF-8");
        let members = json::members(text);
        let all = |name: &str| -> Vec<_> {
            members.iter().filter(|(key, _)| json::decoded(key).as_deref() == Some(name)).collect()
        };
        let [(_, id)] = all("job_id")[..] else { unreachable!("one job id was read of {text:?}") };
        assert_eq!(json::decoded(id).as_deref(), Some(named.job.as_str()));
        assert!(named.job.as_str().bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte)));
        let status = all("status").last().and_then(|(_, value)| json::decoded(value));
        let expected = match status.as_deref() {
            Some("complete") => JobStatus::Complete,
            Some("error") => JobStatus::Error,
            _ => JobStatus::Open,
        };
        assert_eq!(named.status, expected);
        assert_eq!(answer::read_status(bytes, &named.job), Ok(expected));
        // What was added is the last member; the others are there byte for byte, in their order.
        let after = String::from_utf8(completed.clone()).expect("JSON is UTF-8");
        let kept = members.iter().filter(|(key, _)| json::decoded(key).as_deref() != Some("websocket_url"));
        let url = serde_json::to_string(URL).expect("a text is JSON");
        let expected: Vec<_> = kept.copied().chain([(r#""websocket_url""#, url.as_str())]).collect();
        assert_eq!(json::members(&after), expected);
        if expected.len() <= limits::JSON_FIELDS {
            assert_eq!(answer::read_start(&completed).as_ref(), Ok(named));
            let twice = String::from_utf8(answer::complete(&completed, URL)).expect("JSON is UTF-8");
            assert_eq!(json::members(&twice), expected, "completing twice is completing once");
        }
    }
    match serde_json::from_slice::<Value>(bytes) {
        Ok(Value::Object(mut object)) => {
            if let Ok(after) = serde_json::from_slice::<Value>(&completed) {
                let members = json::members(std::str::from_utf8(bytes).expect("JSON is UTF-8")).len();
                object.insert("websocket_url".to_owned(), URL.into());
                assert!(members > limits::JSON_FIELDS || after == Value::Object(object));
            }
        }
        Ok(_) => assert!(named.is_err() && completed == bytes),
        // A number beyond a float, or half a surrogate pair, is still JSON.
        Err(error) if error.is_eof() => assert!(named.is_err() && completed == bytes),
        Err(_) => {}
    }
}
