/** Rooms import downwards only; what each layer may see stands in docs/ARCHITECTURE.md. */
import { describe, expect, test } from "bun:test";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join, relative, resolve } from "node:path";

const src = import.meta.dir;
const root = join(src, "..");

const layers: Readonly<Record<string, number>> = {
  core: 0,
  ...{ ir: 1, net: 1, terminal: 1 },
  ...{ runtime: 2, compiler: 2, cluster: 2 },
  ...{ backends: 3, collectives: 3 },
  models: 4,
  ...{ data: 5, adapters: 5, distributed: 5 },
  ...{ serve: 6, eval: 6 },
  ...{ train: 7, optimize: 7, router: 7 },
  ...{ machine: 8, provider: 8 },
  ...{ cli: 9, "main.ts": 9 },
};
/** Rooms that may import `ffi/`. */
const native = new Set(["runtime", "backends", "collectives"]);
/** `ffi/` declares the op table's symbols, so it sees no further than that. */
const ffiLayer = 2;

type Import = { readonly from: string; readonly to: string };

function importsOf(file: string): Import[] {
  const text = readFileSync(file, "utf8");
  const found = text.matchAll(
    /(?:\bfrom\s*|\bimport\s*\(\s*|\bimport\s+|\brequire\(\s*)["'](\.{1,2}\/[^"']+)["']/g,
  );
  return [...found].map((m) => ({
    from: relative(root, file),
    to: relative(root, resolve(dirname(file), m[1]!)),
  }));
}

function sources(folder: string): string[] {
  return [...new Bun.Glob("**/*.ts").scanSync(join(root, folder))]
    .filter((f) => !f.endsWith(".test.ts") && !f.split("/").includes("testing"))
    .map((f) => join(root, folder, f));
}

const roomOf = (path: string): string => path.split("/")[1] ?? "";

/** Why an import is wrong; undefined when it is right. */
function breach({ from, to }: Import): string | undefined {
  const [top] = to.split("/");
  if (to === "package.json") return undefined;
  if (top === "ffi") {
    const allowed = from.startsWith("ffi/") || native.has(roomOf(from));
    return allowed ? undefined : `${from} imports ${to}; only ${[...native].join(", ")} may`;
  }
  if (top !== "src") return `${from} imports ${to}, which is outside src/ and ffi/`;
  const target = layers[roomOf(to)];
  if (target === undefined) return `${to} lies in no known room`;
  if (from.startsWith("ffi/")) return target < ffiLayer ? undefined : `${from} imports upwards: ${to}`;
  const layer = layers[roomOf(from)];
  if (layer === undefined) return `${from} lies in no known room`;
  return roomOf(from) === roomOf(to) || target < layer || from === "src/main.ts"
    ? undefined
    : `${from} (layer ${layer}) imports ${to} (layer ${target})`;
}

describe("layers", () => {
  test("no room imports a room of its own layer or above", () => {
    const wrong = [...sources("src"), ...sources("ffi")].flatMap(importsOf).flatMap((i) => breach(i) ?? []);
    expect(wrong).toEqual([]);
  });

  test("the rule sees what it forbids", () => {
    expect(breach({ from: "src/core/a.ts", to: "src/models/b.ts" })).toContain("layer 0");
    expect(breach({ from: "src/runtime/a.ts", to: "src/compiler/b.ts" })).toContain("layer 2");
    expect(breach({ from: "src/models/a.ts", to: "ffi/load.ts" })).toContain("only");
    expect(breach({ from: "src/core/a.ts", to: "kernels/build.ts" })).toContain("outside");
    expect(breach({ from: "src/backends/a.ts", to: "ffi/load.ts" })).toBeUndefined();
    const file = join(src, "main.ts");
    expect(importsOf(file).map(({ to }) => to)).toContain("src/terminal/arguments.ts");
  });

  test("imports name files that exist, with their ending", () => {
    const missing = sources("src")
      .flatMap(importsOf)
      .filter(({ to }) => !existsSync(join(root, to)));
    expect(missing).toEqual([]);
  });

  test("every room is in the table and none is empty", () => {
    for (const entry of readdirSync(src, { withFileTypes: true })) {
      if (!entry.isDirectory()) continue;
      expect(layers).toHaveProperty(entry.name);
      expect(sources(`src/${entry.name}`).length).toBeGreaterThan(0);
    }
  });
});
