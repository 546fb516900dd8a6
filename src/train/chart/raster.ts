/** A drawing as a picture of pixels. */
import { type Drawing, dotRadius, inks, lineWidth, type Mark, type Place, textSize } from "./drawing.ts";
import { written } from "./letters.ts";
import { encodedPng } from "./png.ts";

/** Pixels for one of the drawing's, so that it is sharp where it is shown larger or on dense screens. */
const scale = 2;
/** A picture of 96 dots per inch at its own size. */
const dotsPerMetre = Math.round((scale * 96) / 0.0254);
const pen = { plain: 1.1, bold: 1.7 } as const;

type Stroke = { readonly points: readonly Place[]; readonly width: number };

const strokesOf = (mark: Mark): { readonly ink: string; readonly strokes: readonly Stroke[] } => {
  switch (mark.kind) {
    case "line":
      return { ink: inks[mark.ink], strokes: [{ points: mark.points, width: lineWidth[mark.ink] }] };
    case "dot":
      return { ink: inks.dot, strokes: [{ points: [mark.at], width: 2 * dotRadius }] };
    case "text": {
      const width = mark.bold ? pen.bold : pen.plain;
      const strokes = written(mark.text, mark.at, textSize, mark.anchor).map((points) => ({ points, width }));
      return { ink: inks.text, strokes };
    }
  }
};

/** Share of each pixel that is covered by what one mark draws, so that its parts may overlap. */
class Coverage {
  readonly #width: number;
  readonly #height: number;
  readonly #shares: Float32Array;
  #touched: number[] = [];

  constructor(width: number, height: number) {
    this.#width = width;
    this.#height = height;
    this.#shares = new Float32Array(width * height);
  }

  /** A piece of a line with round ends, by each near pixel's distance from it. */
  add([ax, ay]: Place, [bx, by]: Place, radius: number): void {
    const reach = radius + 1;
    const [dx, dy] = [bx - ax, by - ay];
    const squared = dx * dx + dy * dy;
    const shares = this.#shares;
    const left = Math.max(0, Math.floor(Math.min(ax, bx) - reach));
    const right = Math.min(this.#width - 1, Math.ceil(Math.max(ax, bx) + reach));
    const last = Math.min(this.#height - 1, Math.ceil(Math.max(ay, by) + reach));
    for (let y = Math.max(0, Math.floor(Math.min(ay, by) - reach)); y <= last; y++) {
      const py = y + 0.5 - ay;
      for (let x = left; x <= right; x++) {
        const px = x + 0.5 - ax;
        const along = squared === 0 ? 0 : Math.min(1, Math.max(0, (px * dx + py * dy) / squared));
        const [ox, oy] = [px - along * dx, py - along * dy];
        const share = Math.min(1, radius + 0.5 - Math.sqrt(ox * ox + oy * oy));
        const i = y * this.#width + x;
        if (share <= shares[i]!) continue;
        if (shares[i] === 0) this.#touched.push(i);
        shares[i] = share;
      }
    }
  }

  /** Paints what was added, and forgets it. */
  paint(pixels: Uint8Array, ink: string): void {
    const colour = [1, 3, 5].map((i) => Number.parseInt(ink.slice(i, i + 2), 16));
    for (const i of this.#touched) {
      const share = this.#shares[i]!;
      for (let c = 0; c < 3; c++) {
        const under = pixels[3 * i + c]!;
        pixels[3 * i + c] = Math.round(under + share * (colour[c]! - under));
      }
      this.#shares[i] = 0;
    }
    this.#touched = [];
  }
}

/** A drawing as a PNG file, on white. */
export function pngOf(drawing: Drawing): Uint8Array<ArrayBuffer> {
  const [width, height] = [scale * drawing.width, scale * drawing.height];
  const pixels = new Uint8Array(3 * width * height).fill(255);
  const coverage = new Coverage(width, height);
  for (const mark of drawing.marks) {
    const { ink, strokes } = strokesOf(mark);
    for (const stroke of strokes) {
      const points = stroke.points.map(([x, y]) => [scale * x, scale * y] as const);
      const radius = (scale * stroke.width) / 2;
      if (points.length === 1) coverage.add(points[0]!, points[0]!, radius);
      for (let i = 1; i < points.length; i++) coverage.add(points[i - 1]!, points[i]!, radius);
    }
    coverage.paint(pixels, ink);
  }
  return encodedPng(pixels, width, height, dotsPerMetre);
}
