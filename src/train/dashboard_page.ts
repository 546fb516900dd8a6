/** The page of `train dashboard --web`: a run's figures and curves, read from its run root again and again. */
import { unexpected } from "../core/error.ts";
import { serveLive } from "../terminal/live_page.ts";
import type { Drawing } from "./chart/drawing.ts";
import { pngOf } from "./chart/raster.ts";
import { svgOf } from "./chart/svg.ts";
import { curvesOf } from "./curves.ts";
import { documentIf, measuredIn, memberOf } from "./evidence.ts";
import { readDocument, retainedPaths } from "./run_root.ts";

const page = `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>psionic train dashboard</title>
<style>
:root{color-scheme:light dark}
body{font:15px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.15rem;margin:0;overflow-wrap:anywhere}
#state{margin:0 0 1rem;opacity:.8}
dl{display:grid;grid-template-columns:repeat(auto-fill,minmax(11rem,1fr));gap:.5rem 1rem;margin:0 0 1rem}
dl div{border:1px solid color-mix(in srgb,currentColor 25%,transparent);border-radius:.4rem;padding:.4rem .6rem}
dt{font-size:.8rem;opacity:.8}dd{margin:0;font-weight:600;font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
ul{list-style:none;margin:0 0 1rem;padding:0}
li{border-left:.3rem solid #b26a00;padding:.2rem .6rem;margin:.3rem 0}li.critical{border-color:#b3261e}
img{width:100%;height:auto;border-radius:.4rem}
</style></head><body>
<h1 id="run">psionic train dashboard</h1><p id="state" role="status">reading</p>
<ul id="alerts" aria-label="alerts"></ul><dl id="figures"></dl>
<img id="curves" alt="" hidden>
<a id="picture" href="curves.png" download="training_curves.png" hidden>Save the curves as PNG</a>
<script>
const [run,state,alerts,figures,curves,picture]=["run","state","alerts","figures","curves","picture"].map((id)=>document.getElementById(id));
const made=(name,text,kind)=>{const e=document.createElement(name);e.textContent=text;if(kind)e.className=kind;return e};
let drawn="";
async function draw(){
  try{
    const answer=await fetch("snapshot.json");
    const found=await answer.json();
    if(!answer.ok)throw new Error(found.error.message);
    run.textContent=found.run_id;
    state.textContent=found.phase+", "+found.detail;
    alerts.replaceChildren(...found.alerts.map((a)=>made("li",a.severity+": "+a.summary+" "+a.detail,a.severity)));
    figures.replaceChildren(...found.figures.map(([name,value])=>{
      const card=document.createElement("div");card.append(made("dt",name),made("dd",value));return card}));
    if(found.drawing!==drawn&&found.drawing!==""){
      drawn=found.drawing;curves.src="curves.svg?"+drawn;curves.hidden=picture.hidden=false;
      curves.alt="loss, learning rate, throughput and memory by step: "+found.figures.map((f)=>f.join(" ")).join(", ");
    }
  }catch(error){state.textContent="cannot be read: "+error.message}
  setTimeout(draw,1000);
}
draw();
</script></body></html>
`;

/** What the page shows; throws where there is no run. */
export type DashboardSnapshot = {
  readonly run_id: string;
  readonly phase: string;
  readonly detail: string;
  readonly alerts: readonly {
    readonly severity: string;
    readonly summary: string;
    readonly detail: string;
  }[];
  /** Names and values for people, in the order in which they are shown. */
  readonly figures: readonly (readonly [string, string])[];
  /** Changes with the curves; "" before the first step. */
  readonly drawing: string;
};

export function dashboardSnapshot(root: string): DashboardSnapshot {
  const status = readDocument(root, retainedPaths.current_status_path);
  const board = documentIf(root, retainedPaths.current_dashboard_path);
  const feed = documentIf(root, retainedPaths.active_alert_feed_path);
  const { steps, heldOut } = measuredIn(root);
  const last = steps.at(-1);
  const recent = steps.slice(-20);
  const total = (of: (s: (typeof steps)[number]) => number): number =>
    recent.reduce((sum, s) => sum + of(s), 0);
  const checkpoint = memberOf(board, "checkpoint");
  const figures: (readonly [string, string])[] = [["step", last ? String(last.step) : "none yet"]];
  if (last) {
    const ms = total((s) => s.durationMs);
    figures.push(
      ["loss", last.loss.toFixed(4)],
      ["held-out loss", heldOut.at(-1)?.loss.toFixed(4) ?? "not measured"],
      ["learning rate", last.learningRate.toExponential(2)],
      ["gradient norm", last.gradientNorm.toPrecision(3)],
      ["tokens/s, last 20 steps", String(Math.round((1000 * total((s) => s.tokens)) / Math.max(ms, 1e-3)))],
      [
        "memory",
        last.memoryBytes === undefined ? "not measured" : `${Math.round(last.memoryBytes / 2 ** 20)} MiB`,
      ],
    );
    if (last.waitedMs !== undefined)
      figures.push(["waited for data, last 20 steps", `${total((s) => s.waitedMs ?? 0).toFixed(1)} ms`]);
  }
  figures.push(
    ["checkpoint", String(status.latest_checkpoint_label)],
    ["backup", String(checkpoint.checkpoint_backup_state ?? "not recorded yet")],
    ["evaluation", String(checkpoint.checkpoint_eval_state ?? "not recorded yet")],
  );
  const active = Array.isArray(feed?.active_alerts) ? feed.active_alerts : [];
  return {
    ...{ run_id: String(status.run_id), phase: String(status.phase), detail: String(status.detail) },
    alerts: active.map((entry) => {
      const alert = memberOf({ entry }, "entry");
      return {
        severity: String(alert.severity),
        summary: String(alert.summary),
        detail: String(alert.detail),
      };
    }),
    figures,
    drawing: last ? `${last.step}.${heldOut.length}` : "",
  };
}

function curves(root: string): Drawing {
  const { steps, heldOut } = measuredIn(root);
  const { run_id } = readDocument(root, retainedPaths.current_status_path);
  const drawing = curvesOf(String(run_id), steps, heldOut);
  if (!drawing) throw unexpected("invalid_request", root, "a step of the run to draw", "none yet");
  return drawing;
}

/** The page, its figures and its curves; the caller stops it. */
export function serveDashboard(root: string, port: number): Bun.Server<undefined> {
  return serveLive(
    {
      "/": { type: "text/html", read: () => page },
      "/snapshot.json": { type: "application/json", read: () => JSON.stringify(dashboardSnapshot(root)) },
      "/curves.svg": { type: "image/svg+xml", read: () => svgOf(curves(root)) },
      "/curves.png": { type: "image/png", read: () => pngOf(curves(root)) },
    },
    port,
  );
}
