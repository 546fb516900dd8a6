/** Loss, learning rate, throughput and memory over the steps of a run, drawn as an SVG and a PNG of the run root. */
import { join } from "node:path";
import type { Drawing, Mark, Place } from "./chart/drawing.ts";
import { pngOf } from "./chart/raster.ts";
import { svgOf } from "./chart/svg.ts";
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
/** From a line's height to the base line of the number beside it. */
const middle = 4;

function drawn(panel: Panel, offset: number, lastStep: number): Mark[] {
  const line = thinned(panel.line);
  const values = [...line, ...panel.dots].map(([, v]) => v);
  const high = Math.max(...values);
  const low = panel.fromZero ? 0 : Math.min(...values);
  const span = high > low ? high - low : Math.abs(high) || 1;
  const inner = { width: width - left - right, height: height - top - bottom };
  const x = (step: number): number => left + (inner.width * step) / Math.max(1, lastStep);
  const y = (v: number): number => offset + top + inner.height * (1 - (v - low) / span);
  const place = ([step, v]: Point): Place => [x(step), y(v)];
  const foot = offset + height - 8;
  return [
    text([left, offset + 18], panel.title, "start", true),
    ...[0, 0.5, 1].flatMap((share): Mark[] => {
      const v = low + share * span;
      const points = [left, width - right].map((at) => [at, y(v)] as const);
      return [{ kind: "line", ink: "grid", points }, text([left - 6, y(v) + middle], label(v), "end")];
    }),
    { kind: "line", ink: "line", points: line.map(place) },
    ...panel.dots.map((dot): Mark => ({ kind: "dot", at: place(dot) })),
    text([left, foot], "0"),
    text([width - right, foot], `step ${lastStep}`, "end"),
  ];
}

const text = (at: Place, words: string, anchor: "start" | "end" = "start", bold = false): Mark => ({
  ...{ kind: "text", at, text: words, anchor, bold },
});

/** A run's curves; undefined before the first step. */
export function curvesOf(
  runId: string,
  steps: readonly TracedStep[],
  heldOut: readonly HeldOutLoss[],
): Drawing | undefined {
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
  return {
    ...{ title: `Training curves of ${runId}`, width, height: all },
    marks: [
      ...panels.flatMap((panel, i) => drawn(panel, i * height, lastStep)),
      text([left, all - 8], runId),
    ],
  };
}

/** None for runs whose memory was not measured. */
function memoryPanel(steps: readonly TracedStep[]): Panel[] {
  const line = steps.flatMap(({ step, memoryBytes }): Point[] =>
    memoryBytes === undefined ? [] : [[step, memoryBytes / 2 ** 20]],
  );
  return line.length === 0 ? [] : [{ title: "Memory, MiB", line, dots: [], fromZero: true }];
}

/** Draws what the run root's traces hold; nothing before the first step. */
export function writeCurves(run: Run): void {
  const { steps, heldOut } = measuredIn(run.root);
  writeDrawing(curvesOf(run.runId, steps, heldOut), run.root, ownPaths.curves, ownPaths.picture);
}

/** The same drawing as an SVG and as a PNG of a run root. */
export function writeDrawing(drawing: Drawing | undefined, root: string, svg: string, png: string): void {
  if (!drawing) return;
  writeWhole(join(root, svg), [new TextEncoder().encode(svgOf(drawing))]);
  writeWhole(join(root, png), [pngOf(drawing)]);
}
