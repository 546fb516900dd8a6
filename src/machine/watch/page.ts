/** The page of `train watch --web`: one document that asks for the snapshot again and again. */
import { linesOf } from "./lines.ts";
import { snapshotOf } from "./snapshot.ts";

const page = `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>psionic train watch</title>
<style>
body{font:14px/1.5 ui-monospace,monospace;max-width:70rem;margin:2rem auto;padding:0 1rem;color-scheme:light dark}
h1{font-size:1.1rem}pre{white-space:pre-wrap;overflow-wrap:anywhere}svg{width:100%;height:8rem}
polyline{fill:none;stroke:currentColor;stroke-width:1.5}
</style></head><body>
<h1>psionic train watch</h1><p id="state" role="status">reading</p>
<svg id="loss" viewBox="0 0 600 100" preserveAspectRatio="none" role="img" aria-label="loss by step"></svg>
<pre id="lines"></pre>
<script>
const [state,lines,loss]=["state","lines","loss"].map((id)=>document.getElementById(id));
async function draw(){
  try{
    const answer=await fetch("snapshot.json");
    const found=await answer.json();
    if(!answer.ok)throw new Error(found.error.message);
    lines.textContent=found.lines.join("\\n");
    const all=found.snapshot.losses.map((s)=>Number(s.loss)).filter(Number.isFinite);
    const low=Math.min(...all),high=Math.max(...all);
    const points=all.map((y,i)=>(600*i/Math.max(1,all.length-1))+","+(95-90*(y-low)/((high-low)||1)));
    const line=document.createElementNS("http://www.w3.org/2000/svg","polyline");
    line.setAttribute("points",points.join(" "));
    loss.replaceChildren(line);
    state.textContent="read "+new Date(found.snapshot.read_at_ms).toLocaleTimeString();
  }catch(error){state.textContent="cannot be read: "+error.message}
  setTimeout(draw,1000);
}
draw();
</script></body></html>
`;

const guard = {
  "cache-control": "no-store",
  "content-security-policy":
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'",
  "x-content-type-options": "nosniff",
};

/** On loopback alone, and only under its names, so that no page of the web can read it; the caller stops it. */
export function servePage(root: string, port: number): Bun.Server<undefined> {
  return Bun.serve({
    ...{ hostname: "127.0.0.1", port },
    fetch(request) {
      const { pathname, hostname } = new URL(request.url);
      if (!["127.0.0.1", "localhost"].includes(hostname)) return new Response("not here", { status: 403 });
      if (request.method !== "GET")
        return new Response("GET alone", { status: 405, headers: { allow: "GET" } });
      if (pathname === "/") return new Response(page, { headers: { ...guard, "content-type": "text/html" } });
      if (pathname === "/snapshot.json") return snapshotAnswer(root);
      return new Response("no such page", { status: 404 });
    },
  });
}

function snapshotAnswer(root: string): Response {
  try {
    const snapshot = snapshotOf(root);
    const text = JSON.stringify({ snapshot, lines: linesOf(snapshot) }, (_, value: unknown) =>
      typeof value === "bigint" ? String(value) : value,
    );
    return new Response(text, { headers: { ...guard, "content-type": "application/json" } });
  } catch (cause) {
    const message = cause instanceof Error ? cause.message : String(cause);
    return Response.json({ error: { message } }, { status: 500, headers: guard });
  }
}
