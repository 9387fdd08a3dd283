// The Worker's front: whoever is not the gateway is turned away before anything is read or made.
//
// `app.js` is your Worker as it is. Kept open: RunPod's callbacks, WebSockets that browsers open themselves, /health.

import app from "./app.js";
import { notFromGateway } from "./gateway_signature.js";
export * from "./app.js";

const GUARDED = /^\/api\/export\//;

/** The secrets by their id; two of them while one is being changed. `wrangler secret put GATEWAY_HMAC`. */
const keys = (env) => ({
  [env.GATEWAY_KEY_ID ?? "current"]: env.GATEWAY_HMAC,
  ...(env.GATEWAY_HMAC_OLD ? { [env.GATEWAY_KEY_ID_OLD ?? "old"]: env.GATEWAY_HMAC_OLD } : {}),
});

export default {
  ...app,
  async fetch(request, env, context) {
    const { pathname } = new URL(request.url);
    if (!GUARDED.test(pathname) || request.method === "OPTIONS") return app.fetch(request, env, context);
    // Without a secret nobody is the gateway: a Worker that was deployed without it must not stand open.
    if (!env.GATEWAY_HMAC) return refused("no secret is set");
    const body = new Uint8Array(await request.clone().arrayBuffer());
    const reason = await notFromGateway(request, body, keys(env));
    // 401 tells the gateway that no job was made: legacy takes the start.
    return reason ? refused(reason) : app.fetch(request, env, context);
  },
};

function refused(reason) {
  console.warn(`refused: ${reason}`);
  return Response.json({ error: "Unauthorized" }, { status: 401 });
}
