// The new home of exports: a Worker with one Durable Object per job. Started by `../run.py workers`.

import { notFromGateway } from "./gateway_signature.js";
import { control, recorded, settings } from "./switchboard.js";
export { ExportJob, JobBook, StartKey } from "./job.js";

const START = /^\/api\/export\/(overlay|framing|annotate)\/start$/;
const STATUS = /^\/api\/export\/status\/([^/]+)$/;
const SOCKET = /^\/api\/jobs\/([^/]+)\/ws$/;
const CALLBACK = /^\/api\/(?:jobs\/([^/]+)\/do|runpod\/callback\/([^/]+))$/;
const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

const CORS = {
  "Access-Control-Allow-Origin": "*",
  "Access-Control-Allow-Methods": "GET, POST, OPTIONS",
  "Access-Control-Allow-Headers": "Content-Type, X-User-Id",
};

const json = (value, status = 200) => Response.json(value, { status, headers: CORS });
const noJob = () => json({ error: "Job not found" }, 404);

export default {
  async fetch(request, env) {
    const url = new URL(request.url);
    if (url.pathname.startsWith("/_test/")) return control(request, url, env);
    let target = "other";
    let type;
    if (request.method === "POST" && START.test(url.pathname)) {
      target = "start";
      type = START.exec(url.pathname)[1];
    } else if (request.method === "GET" && STATUS.test(url.pathname)) target = "status";
    else if (request.headers.get("Upgrade") === "websocket") target = "websocket";
    return recorded({ request, url, target, type }, async (body) => {
      try {
        if (settings.gateway_keys && target !== "other") {
          const refused = await notFromGateway(request, body, settings.gateway_keys);
          if (refused) return json({ error: "Unauthorized", reason: refused }, 401);
        }
        return await route(request, url, env, body);
      } catch (problem) {
        return json({ error: String(problem.message ?? problem) }, 500);
      }
    });
  },
};

async function route(request, url, env, body) {
  const path = url.pathname;
  let found;
  if (request.method === "OPTIONS") return new Response(null, { status: 204, headers: CORS });
  if (path === "/health") return json({ status: "ok" });
  if (request.method === "POST" && (found = START.exec(path))) return start(request, url, env, found[1], body);
  if (request.method === "GET" && (found = STATUS.exec(path))) {
    const job = jobNamed(env, found[1]);
    const status = job && (await job.status());
    return status ? json(status) : noJob();
  }
  if (request.method === "GET" && (found = SOCKET.exec(path))) {
    const job = jobNamed(env, found[1]);
    if (!job) return noJob();
    if (request.headers.get("Upgrade") !== "websocket") return json({ error: "Expected WebSocket" }, 426);
    return job.fetch(request);
  }
  if (request.method === "POST" && (found = CALLBACK.exec(path))) {
    const job = jobNamed(env, found[1] ?? found[2]);
    return job && (await job.runpodSays(await request.json())) ? json({ ok: true }) : noJob();
  }
  return json({ error: "Not found" }, 404);
}

function jobNamed(env, id) {
  return UUID.test(id) ? env.JOBS.get(env.JOBS.idFromName(id)) : null;
}

async function start(request, url, env, type, body) {
  const required = settings.require_header;
  if (required && request.headers.get(required.name) !== required.value) {
    return json({ error: "Unauthorized" }, required.status ?? 403);
  }
  const user = request.headers.get("X-User-Id");
  if (!user) return json({ error: "X-User-Id required" }, 401);
  let given;
  try {
    given = JSON.parse(body);
  } catch {
    return json({ error: "Invalid JSON" }, 400);
  }
  if (!Number.isInteger(given?.project_id) || typeof given.input_key !== "string") {
    return json({ error: "project_id and input_key are required" }, 400);
  }
  const order = {
    job_id: crypto.randomUUID(),
    user,
    type,
    project_id: given.project_id,
    input_key: given.input_key,
    params: given.params ?? {},
    callback: `${url.origin}/api/runpod/callback/`,
  };
  const key = request.headers.get("Idempotency-Key");
  const idempotent = settings.idempotent ?? env.IDEMPOTENT === "1";
  const made =
    key && idempotent
      ? await env.KEYS.get(env.KEYS.idFromName(`${user}\n${type}\n${key}`)).start(order)
      : await env.JOBS.get(env.JOBS.idFromName(order.job_id)).start(order);
  return json(made, made.status === "error" ? 500 : 200);
}
