/** Pictures as a reader of PNG sees them, and letters that are what they should be. */
import { describe, expect, test } from "bun:test";
import { crc32, inflateSync } from "node:zlib";
import { type Drawing, inks, type Mark } from "./drawing.ts";
import { written } from "./letters.ts";
import { pngOf } from "./raster.ts";

type Picture = { readonly width: number; readonly height: number; at(x: number, y: number): string };

/** A PNG of the kind that is written, taken apart with its checks. */
function read(png: Uint8Array): Picture {
  const bytes = Buffer.from(png);
  expect(bytes.subarray(0, 8).toString("latin1")).toBe("\x89PNG\r\n\x1a\n");
  const chunks = new Map<string, Buffer>();
  for (let i = 8; i < bytes.length; ) {
    const end = i + 8 + bytes.readUInt32BE(i);
    expect(bytes.readUInt32BE(end)).toBe(crc32(bytes.subarray(i + 4, end)));
    chunks.set(bytes.toString("latin1", i + 4, i + 8), bytes.subarray(i + 8, end));
    i = end + 4;
  }
  expect([...chunks.keys()]).toEqual(["IHDR", "pHYs", "IDAT", "IEND"]);
  const header = chunks.get("IHDR")!;
  const [width, height] = [header.readUInt32BE(0), header.readUInt32BE(4)];
  expect([...header.subarray(8)]).toEqual([8, 2, 0, 0, 0]);
  const rows = inflateSync(chunks.get("IDAT")!);
  expect(rows.length).toBe(height * (3 * width + 1));
  return {
    ...{ width, height },
    at: (x, y) => `#${rows.toString("hex", y * (3 * width + 1) + 1 + 3 * x).slice(0, 6)}`,
  };
}

const drawing = (...marks: Mark[]): Drawing => ({ title: "t", width: 60, height: 30, marks });

describe("a picture", () => {
  test("has two pixels for one of the drawing, in the marks' inks, on white", () => {
    const picture = read(
      pngOf(
        drawing(
          {
            kind: "line",
            ink: "grid",
            points: [
              [0, 20],
              [60, 20],
            ],
          },
          {
            kind: "line",
            ink: "line",
            points: [
              [10, 5],
              [30, 5],
            ],
          },
          { kind: "dot", at: [45, 10] },
        ),
      ),
    );
    expect([picture.width, picture.height]).toEqual([120, 60]);
    expect(picture.at(40, 10)).toBe(inks.line);
    expect(picture.at(100, 40)).toBe(inks.grid);
    expect(picture.at(90, 20)).toBe(inks.dot);
    for (const [x, y] of [
      [40, 16],
      [90, 30],
      [0, 0],
      [119, 59],
    ] as const)
      expect(picture.at(x, y)).toBe("#ffffff");
  });

  test("smooths edges: between ink and paper lies a shade of both", () => {
    const picture = read(
      pngOf(
        drawing({
          kind: "line",
          ink: "line",
          points: [
            [5, 5],
            [50, 22],
          ],
        }),
      ),
    );
    const shades = new Set(Array.from({ length: 60 }, (_, y) => picture.at(60, y)));
    expect(shades.has(inks.line)).toBeTrue();
    expect(shades.size).toBeGreaterThan(3);
  });

  test("what lies outside is cut off", () => {
    const picture = read(
      pngOf(
        drawing({
          kind: "line",
          ink: "line",
          points: [
            [-50, 15],
            [500, 15],
          ],
        }),
      ),
    );
    expect(picture.at(0, 30)).toBe(inks.line);
    expect(picture.at(119, 30)).toBe(inks.line);
  });
});

describe("letters", () => {
  const known = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.,:;/+=()<>@";

  test("all of names and numbers are there and differ; what is not is a box", () => {
    const drawn = [...known].map((letter) => JSON.stringify(written(letter, [0, 20], 12, "start")));
    expect(new Set(drawn).size).toBe(known.length);
    const box = JSON.stringify(written("\u00e9", [0, 20], 12, "start"));
    expect(drawn).not.toContain(box);
    expect(JSON.stringify(written("\u{1f600}", [0, 20], 12, "start"))).toBe(box);
    expect(written(" ", [0, 20], 12, "start")).toEqual([]);
  });

  test("stand on the line, within a line's height, one after the other", () => {
    for (const letter of known) {
      const points = written(letter, [10, 20], 12, "start").flat();
      const [xs, ys] = [points.map(([x]) => x), points.map(([, y]) => y)];
      expect(Math.min(...xs)).toBeGreaterThanOrEqual(10 - 1e-9);
      expect(Math.max(...xs)).toBeLessThan(20);
      expect(Math.min(...ys)).toBeGreaterThan(20 - 0.72 * 12 - 1e-9);
      expect(Math.max(...ys)).toBeLessThan(20 + 3);
    }
    const right = (text: string, anchor: "start" | "end"): number =>
      Math.max(...written(text, [50, 20], 12, anchor).flatMap((s) => s.map(([x]) => x)));
    expect(right("HH", "start")).toBeGreaterThan(right("H", "start") + 4);
    expect(right("HHH", "end")).toBeCloseTo(50, 9);
  });
});
