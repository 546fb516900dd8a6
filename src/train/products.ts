/**
 * Which matrix products of a run on CUDA are made by NVIDIA's cuBLASLt, where it is installed, and which by psionic's own
 * kernels. The choice is part of what a step computes, so it is made once: measured the first time on a machine, kept there
 * for later runs, and written into the run root, from which a run goes on.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import {
  Cublaslt,
  isFaster,
  kernelLibraryPath,
  type MeasuredProduct,
  measureProducts,
  type ProductShape,
} from "../backends/index.ts";
import { sha256 } from "../core/digest.ts";
import { PsionicError, unexpected } from "../core/error.ts";
import { canonicalJson } from "../core/json.ts";
import { cacheFolders } from "../core/unpack.ts";
import type { AppliedCall, Device } from "../runtime/device.ts";
import { writeJson } from "./durable.ts";
import { documentIf } from "./evidence.ts";
import { ownPaths, type Run } from "./run_root.ts";

/** The environment variable that says how products are chosen. */
export const productsVariable = "PSIONIC_CUBLASLT";

/** off: psionic's kernels for all. on: cuBLASLt for all that it takes. measure, the default: whichever is faster. */
const modes = ["measure", "on", "off"] as const;
type Mode = (typeof modes)[number];

const schema = "psionic.train.matrix_products.v1";

/** What a run does from a step on. */
type Stretch = {
  readonly from_step: number;
  readonly mode: Mode;
  readonly device: string;
  /** Null where none was found, or none was asked for; then all products are psionic's. */
  readonly cublaslt: string | null;
  readonly products: readonly ChosenProduct[];
};

type ChosenProduct = {
  readonly shape: ProductShape;
  readonly by: "psionic" | "cublaslt";
  /** cuBLASLt's 64 bytes, hex; null: psionic's kernels. */
  readonly algorithm: string | null;
  readonly psionic_ms: number | null;
  readonly cublaslt_ms: number | null;
};

/** The choices in force: hold them while the run computes. */
export type Products = Disposable & {
  /** For the log: `none`, or how many of the products go where. */
  readonly summary: string;
};

/** Shapes that a step's calls ask of `gemm` and that cuBLASLt could take, each once. */
export class ProductShapes {
  readonly #found = new Map<string, ProductShape>();

  readonly hear = ({ op, inputs: [a, b, bias], outputs: [c], params }: AppliedCall): void => {
    if (op.name !== "gemm" || !a || !b || !c || bias || a.dtype !== "bf16" || b.dtype !== "bf16") return;
    const [transA, transB] = [Boolean(params.transA), Boolean(params.transB)];
    const [m, n] = c.shape.slice(-2) as [number, number];
    const k = a.shape.at(transA ? -2 : -1)!;
    const batch = c.shape.length === 3 ? c.shape[0]! : 1;
    if (Math.min(m, n, k) < 64 || [m, n, k].some((side) => side % 8 !== 0)) return;
    const shape = { batch, m, n, k, transA, transB, dtype: c.dtype as ProductShape["dtype"] };
    this.#found.set(canonicalJson(shape), shape);
  };

  get all(): readonly ProductShape[] {
    return [...this.#found.values()];
  }
}

/** What the environment asks for; throws where that is no mode. */
export function askedMode(): Mode | undefined {
  const asked = process.env[productsVariable];
  if (!asked) return undefined;
  const found = modes.find((mode) => mode === asked);
  if (!found) throw unexpected("invalid_request", productsVariable, `one of ${modes.join(", ")}`, asked);
  return found;
}

/**
 * Puts in force what the run root says of the run's products, and chooses for one that begins. `fromStep`: the steps that are
 * done; a run that has some and no record began with psionic's kernels alone. Throws `unsupported` where the run goes on
 * with cuBLASLt and this machine has another version, or none.
 */
export function chooseProducts(
  run: Pick<Run, "root" | "runId" | "backend">,
  device: Device,
  shapes: readonly ProductShape[],
  fromStep: number,
): Products {
  const none = { summary: "none", [Symbol.dispose]() {} };
  if (run.backend !== "cuda") return none;
  const stretches = recordOf(run);
  const last = stretches.at(-1);
  const asked = askedMode();
  if (!last && fromStep > 0 && asked !== "on") return none;
  if (last && (!asked || asked === "measure" || asked === last.mode)) return inForce(last);
  const next = chosen(device, shapes, fromStep, asked ?? "measure");
  const products = inForce(next);
  const document = { schema_version: schema, run_id: run.runId, stretches: [...stretches, next] };
  writeJson(join(run.root, ownPaths.products), document);
  return products;
}

/** What the run root says; empty where there is nothing yet. */
function recordOf(run: Pick<Run, "root">): readonly Stretch[] {
  const record = documentIf(run.root, ownPaths.products);
  if (!record) return [];
  const { schema_version: version, stretches } = record;
  if (version === schema && Array.isArray(stretches)) return stretches as unknown as Stretch[];
  throw unexpected("file_malformed", ownPaths.products, schema, JSON.stringify(version));
}

function chosen(device: Device, shapes: readonly ProductShape[], fromStep: number, mode: Mode): Stretch {
  const head = { from_step: fromStep, mode, device: String(device.backend.info().device) };
  const own = { ...head, cublaslt: null, products: [] };
  if (mode === "off") return own;
  using library = mode === "on" ? new Cublaslt() : cublasltIfThere();
  if (!library) return own;
  const products = mode === "on" ? advised(library, shapes) : measured(device, library, shapes);
  return { ...head, cublaslt: library.version, products };
}

/** Undefined where it is not installed. */
export function cublasltIfThere(): Cublaslt | undefined {
  try {
    return new Cublaslt();
  } catch (error) {
    if (error instanceof PsionicError && error.code === "unsupported") return undefined;
    throw error;
  }
}

const advised = (library: Cublaslt, shapes: readonly ProductShape[]): ChosenProduct[] =>
  shapes.map((shape) => {
    const algorithm = library.find(shape) ?? null;
    const by = algorithm === null ? "psionic" : "cublaslt";
    return { shape, by, algorithm, psionic_ms: null, cublaslt_ms: null };
  });

function chosenOf({ ownMs, cublasltMs, algorithm, ...shape }: MeasuredProduct): ChosenProduct {
  const faster = isFaster({ ownMs, cublasltMs, algorithm, ...shape });
  const taken = faster
    ? ({ by: "cublaslt", algorithm } as const)
    : ({ by: "psionic", algorithm: null } as const);
  return { shape, ...taken, psionic_ms: ownMs, cublaslt_ms: cublasltMs };
}

/** Of the shapes those that this machine has not measured yet are. */
function measured(device: Device, library: Cublaslt, shapes: readonly ProductShape[]): ChosenProduct[] {
  const path = measurementsPath(String(device.backend.info().device), library.version);
  const known = new Map(readMeasurements(path).map((p) => [canonicalJson(p.shape), p]));
  const missing = shapes.filter((shape) => !known.has(canonicalJson(shape)));
  for (const p of measureProducts(device, library, missing)) {
    const product = chosenOf(p);
    known.set(canonicalJson(product.shape), product);
  }
  if (missing.length > 0) keep(path, [...known.values()]);
  return shapes.map((shape) => known.get(canonicalJson(shape))!);
}

/** Where a machine keeps its measurements, by all that they depend on: device, version of cuBLASLt, psionic's kernels. */
function measurementsPath(device: string, version: string): string {
  const kernels = sha256(readFileSync(kernelLibraryPath("cuda")));
  const key = sha256(canonicalJson({ device, version, kernels })).slice(0, 16);
  return join(cacheFolders()[0]!, "matrix_products", `${key}.json`);
}

/** What was measured here before; a file that cannot be read is as none, and written again. */
function readMeasurements(path: string): readonly ChosenProduct[] {
  try {
    const { schema_version: version, products } = JSON.parse(readFileSync(path, "utf8"));
    return version === schema && Array.isArray(products) ? products : [];
  } catch {
    return [];
  }
}

/** A folder that cannot be written leaves the next run to measure again; this one has its own record. */
function keep(path: string, products: readonly ChosenProduct[]): void {
  try {
    writeJson(path, { schema_version: schema, products });
  } catch {
    // the record of the run has all that is needed to go on with it
  }
}

/** For `doctor`: how many products this machine has measured, and how many of them go to cuBLASLt. */
export function measuredHere(
  device: Device,
  library: Cublaslt,
): { readonly products: number; readonly cublaslt: number } {
  const known = readMeasurements(measurementsPath(String(device.backend.info().device), library.version));
  return { products: known.length, cublaslt: known.filter(({ by }) => by === "cublaslt").length };
}

/** Gives the products of a stretch to whom they belong. */
function inForce({ cublaslt: version, products }: Stretch): Products {
  const theirs = products.filter(({ algorithm }) => algorithm !== null);
  if (theirs.length === 0) return { summary: "psionic", [Symbol.dispose]() {} };
  const fix = `Install cuBLASLt ${version}, or set ${productsVariable}=off to go on with psionic's kernels, which is recorded and gives other bits`;
  const library = cublasltIfThere();
  if (library?.version !== version) {
    library?.[Symbol.dispose]();
    const wanted = `cuBLASLt ${version}, with which this run computes`;
    throw unexpected("unsupported", "train", wanted, library?.version ?? "none", { fix });
  }
  for (const { shape, algorithm } of theirs) library.use(shape, algorithm ?? undefined);
  return {
    summary: `cublaslt_${version}_for_${theirs.length}_of_${products.length}`,
    [Symbol.dispose]: () => library[Symbol.dispose](),
  };
}
