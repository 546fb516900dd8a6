/** Loss, learning rate, throughput and memory over the steps of a run, drawn as an SVG of the run root. */
import { join } from "node:path";
import { writeWhole } from "./durable.ts";
import { type HeldOutLoss, measuredIn } from "./evidence.ts";
import { ownPaths, type Run } from "./run_root.ts";
import type { TracedStep } from "./trainer.ts";

type Point = readonly [step: number, value: number];
type Panel = {
  readonly title: string;
  readonly line: readonly Point[];
  readonly dots: readonly Point[];
  /** The axis begins at 0. */
  readonly fromZero: boolean;
};

const [width, height, left, right, top, bottom] = [720, 190, 76, 20, 30, 26];
/** Points of a line; longer runs are drawn as means of neighbouring steps. */
const mostPoints = 600;

/** At most `most` points, each the mean of as many neighbours. */
export function thinned(points: readonly Point[], most = mostPoints): Point[] {
  const size = Math.ceil(points.length / most);
  if (size <= 1) return [...points];
  return Array.from({ length: Math.ceil(points.length / size) }, (_, i) => {
    const group = points.slice(i * size, (i + 1) * size);
    const mean = (at: 0 | 1): number => group.reduce((sum, p) => sum + p[at], 0) / group.length;
    return [mean(0), mean(1)] as const;
  });
}

/** Four significant digits without an exponent where that is short. */
const label = (n: number): string => String(Number(n.toPrecision(4)));
const place = (n: number): string => n.toFixed(1);

function drawn(panel: Panel, offset: number, lastStep: number): string {
  const line = thinned(panel.line);
  const values = [...line, ...panel.dots].map(([, v]) => v);
  const high = Math.max(...values);
  const low = panel.fromZero ? 0 : Math.min(...values);
  const span = high > low ? high - low : Math.abs(high) || 1;
  const inner = { width: width - left - right, height: height - top - bottom };
  const x = (step: number): string => place(left + (inner.width * step) / Math.max(1, lastStep));
  const y = (v: number): string => place(offset + top + inner.height * (1 - (v - low) / span));
  const axis = [0, 0.5, 1].map((share) => {
    const v = low + share * span;
    return `<line x1="${left}" x2="${width - right}" y1="${y(v)}" y2="${y(v)}" class="grid"/><text x="${left - 6}" y="${y(v)}" class="value">${label(v)}</text>`;
  });
  const path = line.map(([step, v]) => `${x(step)},${y(v)}`).join(" ");
  const dots = panel.dots.map(([step, v]) => `<circle cx="${x(step)}" cy="${y(v)}" r="3.5" class="dot"/>`);
  const foot = offset + height - 8;
  return [
    `<text x="${left}" y="${offset + 18}" class="title">${panel.title}</text>`,
    ...axis,
    `<polyline points="${path}" class="line"/>`,
    ...dots,
    `<text x="${left}" y="${foot}" class="step">0</text>`,
    `<text x="${width - right}" y="${foot}" class="step" text-anchor="end">step ${lastStep}</text>`,
  ].join("\n");
}

/** The drawing as SVG text; undefined before the first step. */
export function curvesSvg(
  runId: string,
  steps: readonly TracedStep[],
  heldOut: readonly HeldOutLoss[],
): string | undefined {
  const lastStep = steps.at(-1)?.step;
  if (lastStep === undefined) return undefined;
  const curve = (of: (s: TracedStep) => number): Point[] => steps.map((s) => [s.step, of(s)]);
  const rate = (s: TracedStep): number => (1000 * s.tokens) / Math.max(s.durationMs, 1e-3);
  const panels: Panel[] = [
    {
      title: "Loss, nats per token; dots: held out",
      line: curve((s) => s.loss),
      dots: heldOut.filter(({ step }) => step <= lastStep).map(({ step, loss }) => [step, loss]),
      fromZero: false,
    },
    { title: "Learning rate", line: curve((s) => s.learningRate), dots: [], fromZero: true },
    { title: "Throughput, tokens per second", line: curve(rate), dots: [], fromZero: true },
    ...memoryPanel(steps),
  ];
  const all = panels.length * height + 24;
  const style =
    "text{font:12px sans-serif;fill:#444}.title{font-weight:bold}.value{text-anchor:end;dominant-baseline:middle}" +
    ".grid{stroke:#ddd}.line{fill:none;stroke:#1f6fb2;stroke-width:1.5}.dot{fill:#c4501b}";
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${all}" width="${width}" height="${all}">`,
    `<title>Training curves of ${escaped(runId)}</title>`,
    `<style>${style}</style>`,
    `<rect width="${width}" height="${all}" fill="#fff"/>`,
    ...panels.map((panel, i) => drawn(panel, i * height, lastStep)),
    `<text x="${left}" y="${all - 8}">${escaped(runId)}</text>`,
    "</svg>\n",
  ].join("\n");
}

/** None for runs whose memory was not measured. */
function memoryPanel(steps: readonly TracedStep[]): Panel[] {
  const line = steps.flatMap(({ step, memoryBytes }): Point[] =>
    memoryBytes === undefined ? [] : [[step, memoryBytes / 2 ** 20]],
  );
  return line.length === 0 ? [] : [{ title: "Memory, MiB", line, dots: [], fromZero: true }];
}

const escaped = (text: string): string =>
  text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

/** Draws what the run root's traces hold; nothing before the first step. */
export function writeCurves(run: Run): void {
  const { steps, heldOut } = measuredIn(run.root);
  const svg = curvesSvg(run.runId, steps, heldOut);
  if (svg !== undefined) writeWhole(join(run.root, ownPaths.curves), [new TextEncoder().encode(svg)]);
}
