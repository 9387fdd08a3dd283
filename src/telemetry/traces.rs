//! Traces by OpenTelemetry: a span for each request, and one inside it for each call to a backend.
//!
//! The context travels in the header fields themselves (W3C Trace Context): what a client says is the parent of the
//! request's span, which is what backends are told, and a call reads its parent where it is about to be sent. So nothing
//! between the two has to know of traces. Where none are configured there is no span, and no field is touched.
//!
//! Spans wait in a queue of OpenTelemetry's own, bounded by `OTEL_BSP_MAX_QUEUE_SIZE` (2,048); one that finds it full is
//! dropped. Nobody ever waits for it.

use std::time::Duration;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{
    Span as _, SpanBuilder, SpanContext, SpanKind, Status, TraceContextExt, Tracer, TracerProvider,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_http::{HeaderExtractor, HttpClient};
use opentelemetry_otlp::{ExporterBuildError, Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{BatchSpanProcessor, SdkTracer, SdkTracerProvider, Span};

use crate::names::BackendName;
use crate::routing::table::BaseUrl;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Makes spans; cloned into every thread.
#[derive(Debug, Clone)]
pub struct Traces {
    tracer: SdkTracer,
}

/// What sends them; shut down at exit.
#[derive(Debug)]
pub struct Exporter(SdkTracerProvider);

/// A request's span; it ends when it is dropped.
#[derive(Debug)]
pub struct RequestSpan {
    span: Span,
    /// Whether the client belongs to a trace that this span is a part of.
    has_parent: bool,
}

/// The span of a call to a backend, up to the head of its answer; it ends when it is dropped.
#[derive(Debug)]
pub struct CallSpan(Span);

impl Traces {
    /// Starts the exporter, on a thread of its own. `client` does its HTTP; without an address it sends to the one that
    /// OpenTelemetry's variables name. `service` is what the gateway is called where they do not say.
    ///
    /// # Errors
    /// When an address or another setting in the environment is none.
    pub fn start(
        client: impl HttpClient + 'static,
        address: Option<&BaseUrl>,
        service: Option<&'static str>,
    ) -> Result<(Traces, Exporter), ExporterBuildError> {
        let builder = SpanExporter::builder().with_http().with_http_client(client).with_protocol(Protocol::HttpBinary);
        let exporter = match address {
            Some(address) => builder.with_endpoint(traces_url(address)).build()?,
            None => builder.build()?,
        };
        let mut resource =
            Resource::builder().with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
        if let Some(service) = service {
            resource = resource.with_service_name(service);
        }
        let provider = SdkTracerProvider::builder()
            .with_span_processor(BatchSpanProcessor::builder(exporter).build())
            .with_resource(resource.build())
            .build();
        Ok((Traces { tracer: provider.tracer("export-gateway") }, Exporter(provider)))
    }

    /// Begins a request's span, as a child of what its fields say.
    pub fn begin(&self, headers: &HeaderMap) -> RequestSpan {
        let parent = parent_of(headers);
        let builder = SpanBuilder::from_name("request").with_kind(SpanKind::Server);
        RequestSpan { has_parent: parent.has_active_span(), span: self.tracer.build_with_context(builder, &parent) }
    }

    /// Begins the span of a call, if its request belongs to a trace, and says so in its fields.
    pub fn call(&self, name: BackendName, url: &BaseUrl, method: &Method, headers: &mut HeaderMap) -> Option<CallSpan> {
        let parent = parent_of(headers);
        if !parent.has_active_span() {
            return None;
        }
        let builder = SpanBuilder::from_name(format!("{} {name}", verb(method))).with_kind(SpanKind::Client);
        let mut span = self.tracer.build_with_context(builder, &parent);
        if span.is_recording() {
            span.set_attributes([
                KeyValue::new("http.request.method", verb(method)),
                KeyValue::new("server.address", url.host.clone()),
                KeyValue::new("server.port", i64::from(url.port)),
                KeyValue::new("export_gateway.backend", name.as_str()),
            ]);
        }
        write(headers, span.span_context());
        Some(CallSpan(span))
    }
}

impl Exporter {
    /// Sends what waits and ends; blocks for `limit` at the most.
    ///
    /// # Errors
    /// What was not sent, as one line.
    pub fn shut_down(&self, limit: Duration) -> Result<(), String> {
        self.0.shutdown_with_timeout(limit).map_err(|error| error.to_string())
    }
}

impl RequestSpan {
    /// Says whether anybody will see it.
    pub fn is_recorded(&self) -> bool {
        self.span.is_recording()
    }

    /// Says in a request's fields that what comes of it belongs to this span.
    pub fn tell(&self, headers: &mut HeaderMap) {
        if !self.has_parent {
            // A state belongs to its parent (W3C Trace Context, 3.3).
            headers.remove(TRACESTATE);
        }
        write(headers, self.span.span_context());
    }

    /// Names the span, says what became of the request, and ends it.
    pub fn end(mut self, method: &Method, route: &'static str, status: u16, attributes: Vec<KeyValue>) {
        self.span.update_name(format!("{} {route}", verb(method)));
        self.span.set_attribute(KeyValue::new("http.request.method", verb(method)));
        self.span.set_attributes(attributes);
        set_status(&mut self.span, status, status >= 500);
    }
}

impl CallSpan {
    /// Says what came of the call, and ends it.
    pub fn answered(mut self, status: StatusCode) {
        // Of a client's span 4xx are failures, too (OpenTelemetry's conventions for HTTP).
        set_status(&mut self.0, status.as_u16(), status.as_u16() >= 400);
    }

    /// Says why there is no answer, and ends it.
    pub fn failed(mut self, error: String) {
        self.0.set_status(Status::error(error));
    }
}

fn set_status(span: &mut Span, status: u16, is_error: bool) {
    span.set_attribute(KeyValue::new("http.response.status_code", i64::from(status)));
    if is_error {
        span.set_attribute(KeyValue::new("error.type", status.to_string()));
        span.set_status(Status::error(""));
    }
}

/// Reads the context that a request carries; two of them are none.
fn parent_of(headers: &HeaderMap) -> Context {
    let mut values = headers.get_all(TRACEPARENT).iter();
    match (values.next(), values.next()) {
        (Some(_), None) => {
            TraceContextPropagator::new().extract_with_context(&Context::new(), &HeaderExtractor(headers))
        }
        _ => Context::new(),
    }
}

/// Writes `traceparent`; `tracestate` stays as it came.
fn write(headers: &mut HeaderMap, context: &SpanContext) {
    let flags = context.trace_flags().to_u8() & 1;
    let text = format!("00-{}-{}-{flags:02x}", context.trace_id(), context.span_id());
    headers.insert(TRACEPARENT, HeaderValue::from_str(&text).expect("hexadecimal digits and dashes"));
}

/// A method of HTTP itself, or a word for all others: a client must not invent names of spans.
fn verb(method: &Method) -> &'static str {
    const KNOWN: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "CONNECT", "TRACE"];
    KNOWN.into_iter().find(|known| *known == method.as_str()).unwrap_or("HTTP")
}

/// Where traces go at a collector's address (OpenTelemetry Protocol Exporter, "Endpoint URLs for OTLP/HTTP").
fn traces_url(address: &BaseUrl) -> String {
    let scheme = if address.tls { "https" } else { "http" };
    format!("{scheme}://{}{}/v1/traces", address.authority, address.path)
}
