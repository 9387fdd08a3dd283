// The Durable Objects: one per export job, one per idempotency key, and the book of all jobs (which only tests read).

import { DurableObject } from "cloudflare:workers";

const ENDED = new Set(["complete", "error"]);

export class ExportJob extends DurableObject {
  constructor(state, env) {
    super(state, env);
    state.storage.sql.exec(
      "CREATE TABLE IF NOT EXISTS job (one INTEGER PRIMARY KEY CHECK (one = 1), data TEXT NOT NULL)",
    );
    state.setWebSocketAutoResponse(new WebSocketRequestResponsePair('{"type":"ping"}', '{"type":"pong"}'));
  }

  load() {
    const rows = this.ctx.storage.sql.exec("SELECT data FROM job").toArray();
    return rows.length ? JSON.parse(rows[0].data) : null;
  }

  save(job) {
    this.ctx.storage.sql.exec("INSERT OR REPLACE INTO job (one, data) VALUES (1, ?)", JSON.stringify(job));
  }

  async start(order) {
    const job = { ...order, status: "processing", progress: 0, created_at: Date.now() };
    this.save(job);
    await this.env.BOOK.get(this.env.BOOK.idFromName("all")).enter(job);
    try {
      const { callback, ...input } = order;
      const answer = await fetch(`${this.env.RUNPOD_URL}/run`, {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ input: { ...input, backend: "workers" }, webhook: callback + order.job_id }),
      });
      if (!answer.ok) throw new Error(`RunPod answered ${answer.status}`);
      job.runpod_id = (await answer.json()).id;
    } catch (problem) {
      Object.assign(job, { status: "error", error: `RunPod submission failed: ${problem.message}` });
      this.save(job);
      return { job_id: job.job_id, status: "error", error: job.error };
    }
    this.save(job);
    await this.ctx.storage.setAlarm(Date.now() + this.pause());
    return { job_id: job.job_id, status: job.status };
  }

  pause() {
    return Number(this.env.POLL_MS) || 250;
  }

  status() {
    const job = this.load();
    if (!job) return null;
    // Absent values are left out: JSON drops `undefined`.
    const { job_id, status, progress, output_key, error } = job;
    return JSON.parse(JSON.stringify({ job_id, status, progress, output_key, error }));
  }

  async alarm() {
    const job = this.load();
    if (!job || ENDED.has(job.status)) return;
    try {
      const answer = await fetch(`${this.env.RUNPOD_URL}/status/${job.runpod_id}`);
      if (answer.ok) this.runpodSays(await answer.json());
    } catch {
      // RunPod is away: the next alarm asks again.
    }
    if (!ENDED.has(this.load().status)) await this.ctx.storage.setAlarm(Date.now() + this.pause());
  }

  runpodSays(said) {
    const job = this.load();
    if (!job) return false;
    if (ENDED.has(job.status)) return true;
    const output = said.output ?? {};
    if (said.status === "COMPLETED") {
      Object.assign(job, { status: "complete", progress: 100, output_key: output.output_key });
      this.push({
        type: "complete",
        job_id: job.job_id,
        status: "complete",
        progress: 100,
        output_url: `/${output.output_key}`,
      });
    } else if (["FAILED", "CANCELLED", "TIMED_OUT"].includes(said.status)) {
      Object.assign(job, { status: "error", error: said.error ?? said.status });
      this.push({ type: "error", job_id: job.job_id, status: "error", error: job.error });
    } else if ((output.progress ?? 0) > job.progress) {
      job.progress = output.progress;
      this.push({
        type: "progress",
        job_id: job.job_id,
        status: "processing",
        progress: job.progress,
        message: "Rendering",
      });
    } else return true;
    this.save(job);
    return true;
  }

  push(message) {
    for (const socket of this.ctx.getWebSockets()) {
      try {
        socket.send(JSON.stringify(message));
      } catch {
        // It has just gone; its close event follows.
      }
    }
  }

  fetch(request) {
    const job = this.load();
    if (!job) return Response.json({ error: "Job not found" }, { status: 404 });
    const [client, server] = Object.values(new WebSocketPair());
    this.ctx.acceptWebSocket(server);
    server.send(JSON.stringify({ type: "status", ...this.status() }));
    const offered = request.headers.get("Sec-WebSocket-Protocol");
    const headers = offered ? { "Sec-WebSocket-Protocol": offered.split(",")[0].trim() } : {};
    return new Response(null, { status: 101, webSocket: client, headers });
  }

  // `ping` is the protocol; `close`, `push` and `echo` are for tests; bytes come back as they are.
  webSocketMessage(socket, message) {
    if (typeof message !== "string") return socket.send(message);
    let said;
    try {
      said = JSON.parse(message);
    } catch {
      return;
    }
    if (said.type === "ping") socket.send('{"type":"pong"}');
    else if (said.type === "echo") socket.send(JSON.stringify(said));
    else if (said.type === "close") socket.close(said.code ?? 1000, said.reason ?? "");
    else if (said.type === "push") {
      for (let n = 0; n < said.n; n++) socket.send(JSON.stringify({ type: "progress", progress: n }));
    }
  }

  webSocketClose(socket, code, reason) {
    try {
      socket.close(code === 1005 || code === 1006 ? 1000 : code, reason);
    } catch {
      // Closed on both sides already.
    }
  }
}

/** One per user, export type and `Idempotency-Key`: the same key is the same job, also when both come at once. */
export class StartKey extends DurableObject {
  async start(order) {
    this.running ??= this.once(order).finally(() => (this.running = null));
    return await this.running;
  }

  async once(order) {
    let id = await this.ctx.storage.get("job_id");
    const job = (name) => this.env.JOBS.get(this.env.JOBS.idFromName(name));
    const known = id && (await job(id).status());
    if (known)
      return { job_id: known.job_id, status: known.status === "error" ? "error" : "processing", error: known.error };
    id ??= order.job_id;
    await this.ctx.storage.put("job_id", id); // Written first: whatever ends here, a second try finds the same id.
    return await job(id).start({ ...order, job_id: id });
  }
}

/** Every job ever made, so that tests can count them. */
export class JobBook extends DurableObject {
  constructor(state, env) {
    super(state, env);
    state.storage.sql.exec("CREATE TABLE IF NOT EXISTS jobs (n INTEGER PRIMARY KEY AUTOINCREMENT, data TEXT NOT NULL)");
  }

  enter(job) {
    this.ctx.storage.sql.exec("INSERT INTO jobs (data) VALUES (?)", JSON.stringify(job));
  }

  all() {
    return this.ctx.storage.sql
      .exec("SELECT data FROM jobs ORDER BY n")
      .toArray()
      .map((row) => JSON.parse(row.data));
  }
}
