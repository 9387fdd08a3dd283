// Stands for your Worker: replace it. Its default export has `fetch`, its Durable Objects are exported by name.

export class ExportJob {
  constructor(state) {
    this.state = state;
  }

  async fetch() {
    return Response.json({ error: "Not here" }, { status: 501 });
  }
}

export default {
  async fetch(request) {
    if (new URL(request.url).pathname === "/health") return Response.json({ status: "ok" });
    return Response.json({ error: "Not found" }, { status: 404 });
  },
};
