// How a Worker knows that a request is the gateway's: the signature of `[backends.workers.credential] hmac`.
//
//   const refused = await notFromGateway(request, body, { "2026-11": env.GATEWAY_HMAC, "2026-05": env.GATEWAY_HMAC_OLD });
//   if (refused) return new Response(JSON.stringify({ error: "Unauthorized" }), { status: 401 });
//
// Ask it first of all, before anything is read or made: 401 and 403 tell the gateway that there is no job. Two secrets
// at once let one be changed: add the new one here, then change the gateway's, then take the old one away. Not for
// RunPod's callbacks, nor for WebSockets that browsers open themselves (`websocket = "direct"`).

const FORM = "export-gateway-1";
const MOST_SECONDS_APART = 60;
const text = new TextEncoder();

/** Says why a request is not the gateway's; `null` when it is. `body` is a text or bytes, `keys` secrets by their id. */
export async function notFromGateway(request, body, keys, now = Date.now()) {
  const headers = request.headers;
  const time = headers.get("Export-Gateway-Time") ?? "";
  const signature = headers.get("Export-Gateway-Signature") ?? "";
  if (!/^[0-9]{1,12}$/.test(time) || !/^[0-9a-f]{64}$/.test(signature)) return "no signature";
  if (Math.abs(now / 1000 - Number(time)) > MOST_SECONDS_APART) return "too old, or a clock is wrong";
  const url = new URL(request.url);
  const bytes = typeof body === "string" ? text.encode(body) : (body ?? new Uint8Array());
  const signed = [
    FORM,
    request.method,
    url.host,
    url.pathname,
    url.search.slice(1),
    headers.get("X-User-Id") ?? "",
    headers.get("Idempotency-Key") ?? "",
    time,
    hex(new Uint8Array(await crypto.subtle.digest("SHA-256", bytes))),
  ].join("\n");
  const id = headers.get("Export-Gateway-Key-Id");
  const secrets = id !== null ? (Object.hasOwn(keys, id) ? [keys[id]] : []) : Object.values(keys);
  for (const secret of secrets.filter(Boolean)) {
    const algorithm = { name: "HMAC", hash: "SHA-256" };
    const key = await crypto.subtle.importKey("raw", text.encode(secret), algorithm, false, ["verify"]);
    // Compares in constant time.
    if (await crypto.subtle.verify("HMAC", key, unhex(signature), text.encode(signed))) return null;
  }
  return secrets.length ? "wrong signature" : "unknown key";
}

const hex = (bytes) => [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
const unhex = (digits) => Uint8Array.from(digits.match(/../g), (pair) => Number.parseInt(pair, 16));
