// The dashboard reads what every operator can read: /readyz, /metrics and /api, every two seconds.
"use strict";

const EVERY_MS = 2000;
const WINDOW_MS = 60_000;
const byId = (id) => document.getElementById(id);
const samples = []; // {at, metrics} of the last minute, oldest first
let first = null; // the metrics when this page was opened

// Text of the Prometheus format → [{name, labels, value}].
function parse(text) {
  const series = [];
  for (const line of text.split("\n")) {
    const match = /^([a-z_]+)(?:\{(.*)\})? (\S+)$/.exec(line);
    if (!match) continue;
    const labels = {};
    for (const [, key, value] of (match[2] ?? "").matchAll(/([a-z_]+)="((?:[^"\\]|\\.)*)"/g)) labels[key] = value;
    series.push({ name: match[1].replace(/^export_gateway_/, ""), labels, value: Number(match[3]) });
  }
  return series;
}

function sum(series, name, wanted = {}) {
  let total = 0;
  for (const one of series) {
    if (one.name === name && Object.entries(wanted).every(([key, value]) => one.labels[key] === value)) total += one.value;
  }
  return total;
}

const since = (name, wanted) => sum(samples.at(-1).metrics, name, wanted) - sum(first, name, wanted);

// Always text, never markup: names and problems come from a file.
function cell(row, text, className = "") {
  const td = row.insertCell();
  td.textContent = text;
  td.className = className;
  return td;
}

function rows(id, make) {
  const body = document.createElement("tbody");
  make(body);
  byId(id).tBodies[0].replaceWith(body);
}

function showState(ready) {
  byId("state").textContent = ready.status;
  byId("state").className = `pill ${ready.status}`;
  byId("reasons").replaceChildren(...(ready.reasons ?? []).map((reason) => {
    const item = document.createElement("li");
    item.textContent = reason.detail;
    return item;
  }));
}

function showSplit(table) {
  rows("split", (body) => {
    for (const [type, settings] of Object.entries(table.exports)) {
      const row = body.insertRow();
      cell(row, type);
      cell(row, table.rollout.workers ? `${settings.percent} %` : "switched off");
      const bar = document.createElement("span");
      const part = document.createElement("i");
      bar.className = "bar";
      part.style.width = `${table.rollout.workers ? settings.percent : 0}%`;
      bar.append(part);
      row.insertCell().append(bar);
      cell(row, since("starts_total", { type, backend: "workers" }), "n");
      cell(row, since("starts_total", { type, backend: "legacy" }), "n");
      const fallbacks = since("fallbacks_total", { type });
      cell(row, fallbacks, fallbacks ? "n warn" : "n");
      const unknown = since("starts_total", { type, outcome: "unknown" });
      cell(row, unknown, unknown ? "n bad" : "n");
    }
  });
  const select = byId("explain").elements.type;
  if (select.options.length !== Object.keys(table.exports).length) {
    select.replaceChildren(...Object.keys(table.exports).map((type) => new Option(type)));
  }
  byId("facts").textContent = `version ${table.version} · file ${table.hash} · workers at ${table.backends.workers} · legacy at ${table.backends.legacy}`;
}

function quantile(share, now, before, wanted) {
  const name = "request_duration_seconds_bucket";
  const bounds = now.filter((one) => one.name === name && Object.entries(wanted).every(([k, v]) => one.labels[k] === v));
  const counts = bounds.map((one) => [Number(one.labels.le.replace("+Inf", "Infinity")), one.value - sum(before, name, one.labels)]);
  const total = counts.at(-1)?.[1] ?? 0;
  if (!total) return "";
  const [bound] = counts.find(([, count]) => count >= share * total);
  if (bound === Infinity) return "> 30 s";
  return bound < 1 ? `≤ ${+(bound * 1000).toFixed(1)} ms` : `≤ ${bound} s`;
}

function showRequests() {
  const { at, metrics } = samples.at(-1);
  const before = samples[0];
  const seconds = Math.max((at - before.at) / 1000, 1);
  const pairs = new Map();
  for (const { name, labels } of metrics) {
    if (name === "requests_total") pairs.set(`${labels.route} ${labels.backend}`, { route: labels.route, backend: labels.backend });
  }
  rows("requests", (body) => {
    for (const key of [...pairs.keys()].sort()) {
      const wanted = pairs.get(key);
      let all = 0;
      let failed = 0;
      for (const { name, labels, value } of metrics) {
        if (name !== "requests_total" || labels.route !== wanted.route || labels.backend !== wanted.backend) continue;
        const count = value - sum(before.metrics, name, labels);
        all += count;
        if (labels.status >= 499) failed += count;
      }
      const row = body.insertRow();
      cell(row, wanted.route);
      cell(row, wanted.backend);
      cell(row, (all / seconds).toFixed(1), "n");
      cell(row, all ? `${((100 * failed) / all).toFixed(1)} %` : "", failed ? "n bad" : "n");
      for (const share of [0.5, 0.95, 0.99]) cell(row, quantile(share, metrics, before.metrics, wanted), "n");
    }
  });
}

function showReloads(reloads) {
  rows("reloads", (body) => {
    for (const reload of reloads.history.slice().reverse()) {
      const row = body.insertRow();
      cell(row, new Date(reload.time).toLocaleTimeString());
      cell(row, reload.result, reload.result === "applied" ? "good" : "bad");
      cell(row, reload.hash);
      cell(row, reload.problems ? `${reload.problems} problem${reload.problems > 1 ? "s" : ""}` : "");
    }
    if (!reloads.history.length) cell(body.insertRow(), "no edit since the start", "quiet").colSpan = 4;
  });
}

function showGauges() {
  const { metrics } = samples.at(-1);
  byId("jobs-legacy").textContent = sum(metrics, "jobs_open", { backend: "legacy" });
  byId("jobs-workers").textContent = sum(metrics, "jobs_open", { backend: "workers" });
  byId("connections").textContent = sum(metrics, "connections_open");
  byId("websockets").textContent = sum(metrics, "websockets_open");
  const state = sum(metrics, "circuit_state", { backend: "workers" });
  byId("circuit").textContent = ["closed", "half open", "open"][state];
  byId("circuit").className = ["good", "warn", "bad"][state];
  byId("circuit-words").textContent = ["Workers take starts.", "A probe decides.", "New starts go to legacy."][state];
}

async function read(path, as) {
  const answer = await fetch(path, { cache: "no-store" });
  if (!answer.ok && path !== "/readyz") throw new Error(`${path}: ${answer.status}`);
  return answer[as]();
}

async function tick() {
  try {
    const [ready, text, table, reloads] = await Promise.all([
      read("/readyz", "json"), read("/metrics", "text"), read("/api/table", "json"), read("/api/reloads", "json"),
    ]);
    const at = performance.now();
    samples.push({ at, metrics: parse(text) });
    first ??= samples[0].metrics;
    while (samples.length > 2 && at - samples[1].at > WINDOW_MS) samples.shift();
    showState(ready);
    showSplit(table);
    showGauges();
    showRequests();
    showReloads(reloads);
  } catch (error) {
    showState({ status: "away", reasons: [{ detail: `The gateway does not answer: ${error.message}` }] });
  }
  setTimeout(tick, EVERY_MS);
}

async function ask(form, path, words) {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const answer = await fetch(path(form.elements), { cache: "no-store" });
    byId("answer").textContent = words(await answer.json(), answer.status);
  });
}

ask(byId("explain"), (fields) => `/api/explain?${new URLSearchParams({ user: fields.user.value, type: fields.type.value })}`,
  (it, status) => status === 200
    ? `An ${it.type} export of ${it.user ?? "an anonymous user"} would start on ${it.backend} (${it.reason}${it.bucket === null ? "" : `; bucket ${it.bucket}, workers take those below ${it.threshold}`}).`
    : it.detail);
ask(byId("job"), (fields) => `/api/jobs/${encodeURIComponent(fields.id.value)}`,
  (it, status) => status === 200
    ? `${it.job_id}: on ${it.backend}, ${it.type ?? "of unknown type"}, ${it.user ? `started by ${it.user}` : "found, not started here"}, ${it.state}, since ${new Date(it.started).toLocaleString()}.`
    : it.detail);
tick();
