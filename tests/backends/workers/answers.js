// The bad answers the Worker can give: one function per mode, each returning { status, headers, body }.

const CHUNK = 64 * 1024;

const EDGE = {
  1015: [429, "You are being rate limited", "rate_limited"],
  1027: [429, "This website has been temporarily rate limited", "daily_quota"],
  1101: [500, "Worker threw exception", "worker_exception"],
  1102: [503, "Worker exceeded resource limits", "worker_limits"],
};

const bytes = (text) => new TextEncoder().encode(text);
const of = (status, type, body) => ({
  status,
  headers: [["content-type", type]],
  body: typeof body === "string" ? bytes(body) : body,
});
const json = (status, value) => of(status, "application/json", JSON.stringify(value));
const open = (job) => JSON.stringify(job).slice(0, -1);

export function job_of(answer) {
  try {
    const value = JSON.parse(new TextDecoder().decode(answer.body));
    return typeof value?.job_id === "string" ? value : null;
  } catch {
    return null;
  }
}

function answer(fault) {
  const status = fault.status ?? 500;
  if ("json" in fault) return json(status, fault.json);
  const body = fault.body ?? "json";
  if (body === "empty") return { status, headers: [], body: null };
  if (body === "html") {
    return of(
      status,
      "text/html; charset=UTF-8",
      `<!DOCTYPE html><html><head><title>${status}</title></head><body><h1>${status}</h1></body></html>`,
    );
  }
  if (body === "json") return json(status, { error: `status ${status}` });
  return of(status, fault.content_type ?? "text/plain", body);
}

function edge(fault) {
  const code = fault.code ?? 1101;
  const known = EDGE[code] ?? [code >= 500 && code < 600 ? code : 500, `Error ${code}`, `error_${code}`];
  const [, title, error_name] = known;
  const status = fault.status ?? known[0];
  let made;
  if (fault.form === "json") {
    made = json(status, {
      type: `https://example.com/${code}`,
      title: `Error ${code}: ${title}`,
      status,
      detail: title,
      error_code: code,
      error_name,
      cloudflare_error: true,
    });
  } else if (fault.form === "text") made = of(status, "text/plain; charset=UTF-8", `error code: ${code}`);
  else {
    made = of(
      status,
      "text/html; charset=UTF-8",
      `<!DOCTYPE html>\n<html lang="en-US"><head><title>${title} | app | Cloudflare</title></head><body>` +
        `<h1><span class="cf-error-type">Error</span> <span class="cf-error-code">${code}</span></h1><h2>${title}</h2></body></html>`,
    );
  }
  made.headers.push(["server", "cloudflare"]);
  return made;
}

function redirect(fault) {
  return {
    status: fault.status ?? 307,
    headers: [["location", fault.location ?? "http://127.0.0.1:1/elsewhere"]],
    body: null,
  };
}

function huge_json(fault, job) {
  const size = fault.bytes ?? 100 << 20;
  const head = bytes(`${open(job)}, "pad": "`);
  const tail = bytes('"}');
  const pad = new Uint8Array(CHUNK).fill(48);
  let left = size;
  let begun = false;
  const source = new ReadableStream({
    pull(controller) {
      if (!begun) controller.enqueue(head);
      else if (left > 0) {
        controller.enqueue(pad.slice(0, Math.min(CHUNK, left)));
        left -= CHUNK;
      } else {
        controller.enqueue(tail);
        controller.close();
      }
      begun = true;
    },
  });
  if (fault.chunked) return of(200, "application/json", source);
  const sized = new FixedLengthStream(head.length + size + tail.length);
  source.pipeTo(sized.writable).catch(() => {}); // The client may go before the end.
  return of(200, "application/json", sized.readable);
}

async function gzip(text) {
  const zipped = new Response(text).body.pipeThrough(new CompressionStream("gzip"));
  const made = of(200, "application/json", new Uint8Array(await new Response(zipped).arrayBuffer()));
  made.headers.push(["content-encoding", "gzip"]);
  return made;
}

function non_utf8(fault, job) {
  const made = bytes(`${open(job)}, "note": "????("}`);
  made.set([0xff, 0xfe, 0xc3], made.length - 7);
  return of(200, "application/json", made);
}

export const MODES = {
  answer,
  edge,
  redirect,
  huge_json,
  non_utf8,
  malformed_json: (fault, job) => of(fault.status ?? 200, "application/json", `{"job_id": "${job.job_id}", "status": `),
  duplicate_keys: (fault, job) =>
    of(
      200,
      "application/json",
      `{"job_id": "${job.job_id}", "status": "processing", "job_id": "${fault.second ?? "other-job"}"}`,
    ),
  no_job_id: (fault) => json(fault.status ?? 200, { status: "processing" }),
  job_id: (fault, job) =>
    json(fault.status ?? 200, { ...job, job_id: fault.length ? "j".repeat(fault.length) : fault.value }),
  error_with_job: (fault, job) =>
    json(fault.status ?? 500, {
      job_id: job.job_id,
      status: "error",
      error: fault.error ?? "RunPod submission failed",
    }),
  gzip: (fault, job) => gzip(JSON.stringify(job)),
  gzip_bomb: (fault, job) => gzip(`${open(job)}, "pad": "${"0".repeat(fault.bytes ?? 100 << 20)}"}`),
  deep_json: (fault, job) => {
    const depth = fault.depth ?? 100_000;
    return of(200, "application/json", `${open(job)}, "deep": ${"[".repeat(depth)}${"]".repeat(depth)}}`);
  },
  garbage: (fault) => of(fault.status ?? 200, "application/json", bytes("\u0000\u0001 this is no JSON \u007f<>")),
  other_job: (fault) =>
    json(200, { job_id: fault.value ?? "00000000-0000-4000-8000-000000000000", status: "complete", progress: 100 }),
};

// These say "no job was made" unless the switch says otherwise.
export const WITHOUT_JOB = new Set(["answer", "edge", "redirect", "exception"]);
