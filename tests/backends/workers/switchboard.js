// The test controls around the Worker: what it has seen, and the faults it shall show. `../README.md` has the switches.

import { MODES, WITHOUT_JOB, job_of } from "./answers.js";

const SEEN_MAX = 20_000; // Bounds memory under a benchmark; the counters go on.
const BODY_MAX = 64 * 1024; // What of a request's body the list keeps.

export const settings = {};
let faults = {};
let seen = [];
let counts = {};
let total = 0;

const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

export async function control(request, url, env) {
  const what = `${request.method} ${url.pathname}`;
  if (what === "POST /_test/faults") {
    for (const [target, fault] of Object.entries(await request.json())) {
      if (fault === null) {
        delete faults[target];
        continue;
      }
      const mode = fault.mode ?? "pass";
      if (!(mode in MODES) && !["pass", "cut", "stall", "exception"].includes(mode)) {
        return Response.json({ error: `no such mode: ${mode}` }, { status: 400 });
      }
      const others = (faults[target] ?? []).filter((old) => old.type !== fault.type || old.user !== fault.user);
      faults[target] = [fault, ...others];
    }
    return Response.json(faults);
  }
  if (what === "POST /_test/settings") return Response.json(Object.assign(settings, await request.json()));
  if (what === "GET /_test/jobs") return Response.json(await env.BOOK.get(env.BOOK.idFromName("all")).all());
  if (what === "GET /_test/seen") {
    const target = url.searchParams.get("target");
    return Response.json({ counts, seen: seen.filter((entry) => !target || entry.target === target) });
  }
  if (what === "POST /_test/reset") {
    faults = {};
    seen = [];
    counts = {};
    for (const name of Object.keys(settings)) delete settings[name];
    return Response.json({});
  }
  return Response.json({ error: "no such control" }, { status: 404 });
}

/** Notes the request, then lets `answer(body)` answer it, or a fault that was asked for. */
export async function recorded({ request, url, target, type }, answer) {
  const body = target === "start" ? await request.text() : null;
  counts[target] = (counts[target] ?? 0) + 1;
  seen.push({
    n: ++total,
    at: Date.now() / 1000,
    target,
    method: request.method,
    path: url.pathname,
    query: url.search.slice(1),
    headers: [...request.headers],
    ...(body === null ? {} : { body: body.slice(0, BODY_MAX), body_length: body.length }),
  });
  if (seen.length > SEEN_MAX) seen.splice(0, SEEN_MAX / 2);
  const fault = take(target, type, request.headers.get("X-User-Id"));
  return fault ? show(fault, body, answer) : answer(body);
}

function take(target, type, user) {
  const list = faults[target] ?? [];
  const index = list.findIndex((fault) => (fault.type ?? type) === type && (fault.user ?? user) === user);
  if (index < 0) return null;
  const fault = list[index];
  if (fault.times !== undefined && --fault.times <= 0) list.splice(index, 1);
  return { ...fault };
}

async function show(fault, body, answer) {
  const mode = fault.mode ?? "pass";
  await sleep(fault.delay_ms ?? 0);
  let real = null;
  let job = { job_id: "no-job-was-made", status: "processing" };
  if (fault.make_job ?? !WITHOUT_JOB.has(mode)) {
    real = await answer(body);
    if (mode === "pass" && real.webSocket) return real;
    real = { status: real.status, headers: [...real.headers], body: new Uint8Array(await real.arrayBuffer()) };
    job = job_of(real) ?? job;
  }
  await sleep(fault.delay_after_ms ?? 0);
  if (mode === "exception") throw new Error("asked to fail");
  if (mode === "stall") await sleep((fault.seconds ?? 3600) * 1000);
  const shown = mode in MODES ? await MODES[mode](fault, job) : real;
  const headers = new Headers(shown.headers);
  for (const [name, value] of fault.headers ?? []) headers.append(name, value);
  const bytes = mode === "cut" ? cut(shown.body) : shown.body;
  return new Response(bytes, {
    status: shown.status,
    headers,
    encodeBody: headers.has("content-encoding") ? "manual" : "automatic",
  });
}

// Half of the body, then the connection ends: what this runtime can do. Its head is whole.
function cut(body) {
  const half = body.slice(0, body.length / 2);
  let begun = false;
  return new ReadableStream({
    async pull(controller) {
      if (!begun) controller.enqueue(half);
      else {
        await sleep(50);
        controller.error(new Error("asked to be cut"));
      }
      begun = true;
    },
  });
}
