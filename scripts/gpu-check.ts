/**
 * Everything that the CUDA backend must show, as sections of a table; scripts/gpu-check.sh prepares the machine first.
 * Usage: bun scripts/gpu-check.ts [SECTION]... [--backend cuda|cpu] [--shape gpt-oss-20b] [--large-model FILE] [--arguments]
 *        Sections: ops golden replay batch chat sanitizer soak bench streams turns errors train; absent: all, in that order.
 *        The large model is a random file of --shape, written where --large-model says unless something is there.
 * Output: the table, last on stdout and in OUT/gpu-check.txt; progress on stderr; rows in OUT/gpu-check.jsonl, logs of
 *         ops, sanitizer and train beside it. OUT is the environment's or .cache/gpu-check. Exits 1 when a row is not as
 *         required, 2 on wrong arguments. --arguments checks them, prints the backend and ends.
 */
import { existsSync, mkdirSync, readFileSync, rmSync, statfsSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { table } from "../src/terminal/table.ts";
import { builtCudaLibrary, lastLines, type Row, ran, root } from "./gpu/check.ts";
import { tensorBytes } from "./random-layout.ts";
import { publishedExperts, randomModel, shapes } from "./random-model.ts";

/** Seconds that each may take. */
const limits = {
  ...{ ops: 150, golden: 90, replay: 60, batch: 60, chat: 90 },
  ...{ sanitizer: 500, soak: 150, bench: 300, streams: 240, turns: 240, errors: 200, train: 560 },
} as const;
type Name = keyof typeof limits;
type SectionRow = Row & { readonly section: Name };

function wrong(message: string): never {
  console.error(`[gpu-check] ${message}`);
  process.exit(2);
}

function parsed() {
  try {
    return parseArgs({
      allowPositionals: true,
      options: {
        backend: { type: "string", default: "cuda" },
        shape: { type: "string", default: "gpt-oss-20b" },
        "large-model": { type: "string" },
        arguments: { type: "boolean", default: false },
      },
    });
  } catch (error) {
    wrong(error instanceof Error ? error.message : String(error));
  }
}

const { values, positionals } = parsed();
const { backend, shape } = values;
if (backend !== "cuda" && backend !== "cpu") wrong(`expected --backend cuda or cpu, got ${backend}`);
if (!Object.hasOwn(shapes, shape))
  wrong(`expected --shape of ${Object.keys(shapes).join(", ")}, got ${shape}`);
const unknown = positionals.filter((name) => !Object.hasOwn(limits, name));
if (unknown.length > 0)
  wrong(`expected sections of ${Object.keys(limits).join(", ")}, got ${unknown.join(", ")}`);
if (values.arguments) {
  console.log(backend);
  process.exit(0);
}
/** What reads the large model; on the CPU, where this script is tried out, refusals of devices are left out. */
const needLarge: readonly Name[] =
  backend === "cuda" ? ["bench", "streams", "turns", "errors"] : ["bench", "streams", "turns"];

const names = (positionals.length > 0 ? positionals : Object.keys(limits)) as Name[];
const out = process.env.OUT ?? join(root, ".cache", "gpu-check");
const folder = join(tmpdir(), "psionic-gpu-check");

function roomIn(path: string): number {
  if (!existsSync(path)) return 0;
  const { bavail, bsize } = statfsSync(path);
  return bavail * bsize;
}

/** Memory where there is room for the file, which is then in the page cache whatever happens. */
function largeModelPath(): string {
  if (values["large-model"]) return values["large-model"];
  const known = shapes[shape]!;
  const expertDtype = publishedExperts(known);
  const { tensors } = randomModel({
    shape: known,
    dtype: "q8_0",
    ...(expertDtype && { expertDtype }),
    seed: 1,
  });
  const bytes = tensors.reduce((sum, tensor) => sum + tensorBytes(tensor), 0);
  // the rest of the run writes there too
  return join(roomIn("/dev/shm") > bytes + 8e9 ? "/dev/shm" : tmpdir(), `psionic-${shape}-random.gguf`);
}

/** Writes the large model beside the first sections. */
async function writeLarge(path: string): Promise<string> {
  if (existsSync(path)) return `${path}: already there`;
  const script = join(root, "scripts", "make-random-gguf.ts");
  const command = [process.execPath, script, "--shape", shape, "--out", path];
  const { code, err } = await ran(command, { limit: 180 });
  if (code !== 0) throw new Error(lastLines(err));
  return err.trim();
}

/** Why the large model is not there; undefined where it is. */
async function lacking(writing: Promise<void> | undefined): Promise<string | undefined> {
  try {
    await writing;
    return undefined;
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

const failed = (section: Name, got: string): SectionRow => ({
  ...{ section, what: "the section itself", required: "runs to its end", got, ok: false },
});

/** Runs a section in its own process group, which ends at the limit with everything it started. */
async function run(name: Name, largeModel: string): Promise<SectionRow[]> {
  const rows = join(folder, `${name}.jsonl`);
  rmSync(rows, { force: true });
  const limit = limits[name];
  const script = join(root, "scripts", "gpu", "section.ts");
  const child = Bun.spawn(
    ["timeout", "-k", "5", String(limit), process.execPath, script, name, backend, largeModel, folder, out],
    { cwd: root, stdin: "ignore", stdout: "inherit", stderr: "inherit" },
  );
  const code = await child.exited;
  const text = existsSync(rows) ? readFileSync(rows, "utf8").trim() : "";
  const found =
    text === "" ? [] : text.split("\n").map((line) => ({ section: name, ...(JSON.parse(line) as Row) }));
  if (code === 0) return found;
  const got = code === 124 || code === 137 ? `stopped after ${limit} s` : `exit ${code}`;
  return [...found, failed(name, got)];
}

/** One line on what was tested and where. */
async function machine(): Promise<string> {
  const date = new Date().toISOString().slice(0, 16);
  const { out: card } = Bun.which("nvidia-smi")
    ? await ran([
        "nvidia-smi",
        "--query-gpu=name,memory.total,driver_version",
        "--format=csv,noheader",
        "-i",
        "0",
      ])
    : { out: "no card" };
  return `gpu-check of ${date}, backend ${backend}, ${card.trim()}, library ${builtCudaLibrary() ?? "none"}`;
}

function tableOf(rows: readonly SectionRow[]): string {
  const verdict = ({ ok }: Row) => (ok === undefined ? "" : ok ? "ok" : "FAILED");
  const cells = rows.map((r) => [r.section, r.what, r.required, r.got.slice(0, 120), verdict(r)]);
  const failed = rows.filter(({ ok }) => ok === false).length;
  const last = `${rows.length - failed} rows as required, ${failed} not`;
  return `${table([["section", "what", "required", "got", ""], ...cells])}\n${last}\n`;
}

mkdirSync(folder, { recursive: true });
mkdirSync(out, { recursive: true });
const title = await machine();
const largeModel = largeModelPath();
const writing = names.some((name) => needLarge.includes(name))
  ? writeLarge(largeModel).then((text) => console.error(text))
  : undefined;
// its failure is a row of the sections that need the file
writing?.catch(() => {});
const all: SectionRow[] = [];
for (const name of names) {
  const start = performance.now();
  const why = needLarge.includes(name) ? await lacking(writing) : undefined;
  all.push(...(why === undefined ? await run(name, largeModel) : [failed(name, `no large model: ${why}`)]));
  console.error(`[${name}] took ${((performance.now() - start) / 1000).toFixed(0)} s`);
  writeFileSync(join(out, "gpu-check.jsonl"), all.map((row) => `${JSON.stringify(row)}\n`).join(""));
}
const text = `${title}\n${tableOf(all)}`;
writeFileSync(join(out, "gpu-check.txt"), text);
process.stdout.write(`\n${text}`);
process.exit(all.some(({ ok }) => ok === false) ? 1 : 0);
