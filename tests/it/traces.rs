//! Traces: what a collector gets of a request and its calls, what backends are told, and that nobody waits for either.

use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use prost::Message;

use super::support::backend::Recorder;
use super::support::client::{self, Request};
use super::support::eventually;
use super::support::gateway::{Backends, Gateway, set, table};
use super::support::parts::shared;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// Starts something that takes traces as a collector does.
fn collector() -> Recorder {
    Recorder::answering("HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n")
}

fn gateway(backends: impl Into<Backends>, collector: &Recorder) -> Gateway {
    let mut table = table(&backends.into());
    set(&mut table, "telemetry.otlp", collector.url());
    Gateway::in_environment(&table.to_string(), &[("OTEL_BSP_SCHEDULE_DELAY", "50")])
}

/// Waits until the collector has this many spans; returns them in the order they began.
fn spans(collector: &Recorder, count: usize) -> Vec<Span> {
    eventually(&format!("{count} spans"), || {
        let mut spans: Vec<Span> = Vec::new();
        for request in collector.requests() {
            assert!(request.head.line.starts_with("POST /v1/traces "), "{}", request.head.line);
            assert_eq!(request.all("content-type"), ["application/x-protobuf"]);
            let batch = ExportTraceServiceRequest::decode(&request.body.bytes[..]).unwrap();
            for resource in batch.resource_spans {
                let about = format!("{:?}", resource.resource);
                assert!(about.contains("export-gateway") && about.contains("service.name"), "{about}");
                spans.extend(resource.scope_spans.into_iter().flat_map(|scope| scope.spans));
            }
        }
        spans.sort_by_key(|span| span.start_time_unix_nano);
        (spans.len() >= count).then_some(spans)
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns an attribute as text; empty where there is none.
fn attribute(span: &Span, name: &str) -> String {
    let found = span.attributes.iter().find(|attribute| attribute.key == name);
    match found.and_then(|attribute| attribute.value.as_ref()?.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        Some(other) => panic!("{name}: {other:?}"),
        None => String::new(),
    }
}

fn traceparent(flags: &str) -> String {
    format!("00-{TRACE}-{PARENT}-{flags}")
}

#[test]
fn a_start_is_a_span_with_its_decision_and_a_call_inside_it() {
    let (set, collector) = (shared(), collector());
    let gateway = gateway(set, &collector);
    let user = set.user();
    let start = Request::post_json("/api/export/overlay/start", &client::overlay(12)).user(&user);
    let answer = client::send(gateway.addr(), &start.header("traceparent", &traceparent("01")));
    assert_eq!(answer.status, 200);
    let spans = spans(&collector, 2);
    let [request, call] = &spans[..] else { panic!("{spans:#?}") };
    assert_eq!((request.name.as_str(), request.kind()), ("POST start", SpanKind::Server));
    assert_eq!((hex(&request.trace_id), hex(&request.parent_span_id)), (TRACE.to_owned(), PARENT.to_owned()));
    for (name, value) in [
        ("http.request.method", "POST"),
        ("http.response.status_code", "200"),
        ("url.path", "/api/export/overlay/start"),
        ("export_gateway.backend", "workers"),
        ("export_gateway.decision", "workers"),
        ("export_gateway.reason", "canary"),
        ("export_gateway.outcome", "accepted"),
        ("export_gateway.export_type", "overlay"),
        ("export_gateway.job_id", answer.field("job_id").as_str()),
        ("export_gateway.request_id", answer.header("x-request-id").unwrap()),
    ] {
        assert_eq!(attribute(request, name), value, "{name}");
    }
    assert!(!format!("{request:?}").contains(&user), "users are for the access log");
    assert_eq!((call.name.as_str(), call.kind()), ("POST workers", SpanKind::Client));
    assert_eq!((&call.trace_id, &call.parent_span_id), (&request.trace_id, &request.span_id));
    assert_eq!(attribute(call, "http.response.status_code"), "200");
    assert!(call.end_time_unix_nano <= request.end_time_unix_nano);
}

#[test]
fn a_backend_is_told_of_the_call_that_it_serves() {
    let (legacy, collector) = (Recorder::start(), collector());
    let gateway = gateway(&legacy, &collector);
    let traced = Request::get("/a").header("traceparent", &traceparent("01")).header("tracestate", "x=1");
    client::send(gateway.addr(), &traced);
    client::send(gateway.addr(), &Request::get("/b").header("tracestate", "x=1"));
    let spans = spans(&collector, 4);
    let seen = legacy.requests();
    let call_of = |path: &str| {
        let request = spans.iter().find(|span| attribute(span, "url.path") == path).unwrap();
        assert_eq!(request.name, "GET pass");
        let call = spans.iter().find(|span| span.parent_span_id == request.span_id).unwrap();
        assert_eq!((call.name.as_str(), attribute(call, "export_gateway.backend").as_str()), ("GET legacy", "legacy"));
        (request, call)
    };
    let (request, call) = call_of("/a");
    assert_eq!((hex(&request.trace_id), hex(&request.parent_span_id)), (TRACE.to_owned(), PARENT.to_owned()));
    assert_eq!(seen[0].all("traceparent"), [format!("00-{TRACE}-{}-01", hex(&call.span_id))]);
    assert_eq!(seen[0].all("tracestate"), ["x=1"]);
    let (request, call) = call_of("/b");
    assert!(request.parent_span_id.is_empty(), "a trace begins here");
    assert_eq!(seen[1].all("traceparent"), [format!("00-{}-{}-01", hex(&request.trace_id), hex(&call.span_id))]);
    assert!(seen[1].all("tracestate").is_empty(), "it belonged to no parent");
}

#[test]
fn a_failed_call_is_an_error_and_one_that_is_not_sampled_is_none() {
    let collector = collector();
    let legacy = Recorder::answering("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n");
    let gateway = gateway(&legacy, &collector);
    client::send(gateway.addr(), &Request::get("/quiet").header("traceparent", &traceparent("00")));
    client::send(gateway.addr(), &Request::new("BREW", "/loud"));
    let spans = spans(&collector, 2);
    assert_eq!(spans.len(), 2, "{spans:#?}");
    assert_eq!([&spans[0].name, &spans[1].name], ["HTTP pass", "HTTP legacy"], "no name is the client's");
    for span in &spans {
        assert_eq!(attribute(span, "error.type"), "503");
        assert_eq!(span.status.as_ref().unwrap().code(), StatusCode::Error);
    }
    let quiet = &legacy.requests()[0].all("traceparent")[0].to_owned();
    assert!(quiet.starts_with(&format!("00-{TRACE}-")) && quiet.ends_with("-00"), "{quiet}");
}

#[test]
fn without_a_collector_nothing_is_touched() {
    let legacy = Recorder::start();
    let gateway = Gateway::start(&legacy);
    let odd = Request::get("/").header("traceparent", "odd").header("traceparent", "odder").header("tracestate", "x=1");
    client::send(gateway.addr(), &odd);
    client::get(gateway.addr(), "/");
    let seen = legacy.requests();
    assert_eq!(seen[0].all("traceparent"), ["odd", "odder"]);
    assert_eq!(seen[0].all("tracestate"), ["x=1"]);
    assert!(seen[1].all("traceparent").is_empty());
}

#[test]
fn the_environment_may_name_the_collector_too() {
    let (legacy, collector) = (Recorder::start(), collector());
    let text = table(&Backends::from(&legacy)).to_string();
    let url = collector.url();
    let asked = [("OTEL_EXPORTER_OTLP_ENDPOINT", url.as_str()), ("OTEL_BSP_SCHEDULE_DELAY", "60000")];
    let mut on = Gateway::in_environment(&text, &asked);
    client::get(on.addr(), "/");
    // What waits is sent at the end.
    assert!(on.term().success());
    assert_eq!(spans(&collector, 2).len(), 2);
    let mut off = Gateway::in_environment(&text, &[asked[0], asked[1], ("OTEL_SDK_DISABLED", "true")]);
    client::get(off.addr(), "/");
    assert!(off.term().success());
    assert_eq!(spans(&collector, 2).len(), 2);
}

#[test]
fn a_collector_that_hangs_keeps_no_request_and_not_the_end() {
    let legacy = Recorder::start();
    let hanging = super::support::backend::Backend::start(|_, wire| {
        wire.read_head()?;
        std::thread::sleep(Duration::from_secs(600));
        Ok(())
    });
    let mut table = table(&Backends::from(&legacy));
    set(&mut table, "telemetry.otlp", hanging.url());
    let small = [("OTEL_BSP_SCHEDULE_DELAY", "20"), ("OTEL_BSP_MAX_QUEUE_SIZE", "16")];
    let mut gateway = Gateway::in_environment(&table.to_string(), &small);
    for _ in 0..200 {
        assert_eq!(client::get(gateway.addr(), "/").status, 200);
    }
    eventually("an export under way", || (hanging.connections() > 0).then_some(()));
    let began = Instant::now();
    assert!(gateway.term().success());
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
}
