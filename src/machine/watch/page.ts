/** The page of `train watch --web`: one document that asks for the snapshot again and again. */
import { serveLive } from "../../terminal/live_page.ts";
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

/** The page and the snapshot that it asks for; the caller stops it. */
export function servePage(root: string, port: number): Bun.Server<undefined> {
  return serveLive(
    {
      "/": { type: "text/html", read: () => page },
      "/snapshot.json": { type: "application/json", read: () => snapshotText(root) },
    },
    port,
  );
}

function snapshotText(root: string): string {
  const snapshot = snapshotOf(root);
  return JSON.stringify({ snapshot, lines: linesOf(snapshot) }, (_, value: unknown) =>
    typeof value === "bigint" ? String(value) : value,
  );
}
