import { openDevice } from "../../backends/index.ts";
import { PsionicError } from "../../core/error.ts";
import type { EngineBackend } from "../../ir/op.ts";
import { backendOption, deviceNumbers, resolveBackend } from "../../models/cli/backend_option.ts";
import type { GgufValue } from "../../models/files/gguf_values.ts";
import { type ModelFiles, openModelFiles } from "../../models/files/source.ts";
import { modelOption, modelPath } from "../../models/model_option.ts";
import { command, list, wholeNumber } from "../../terminal/command.ts";
import { print, printJson } from "../../terminal/output.ts";
import { readableBytes, readableCount, table } from "../../terminal/table.ts";
import { availableMemory, type ModelPlan, planModel } from "../engine/index.ts";
import { type ExpertTopology, expertTopology } from "./expert_topology.ts";

export const inspect = command({
  meta: {
    name: "inspect",
    description: "Shows what a model file holds and what serving it would take, without loading it.",
  },
  args: {
    ...modelOption,
    ...backendOption,
    "ctx-size": {
      type: "string",
      alias: "c",
      valueHint: "TOKENS",
      description: "Plan for this context; absent: the model's own",
    },
    parallel: {
      type: "string",
      alias: "np",
      valueHint: "N",
      description: "Plan for this many requests at once; absent: 8",
    },
    "cache-type": {
      type: "enum",
      options: list("f32", "f16", "bf16", "fp8", "q8_0"),
      default: "f16",
      description: "Element type of the key-value cache; fp8 (e4m3) not on Metal",
    },
    tensors: { type: "boolean", description: "List every tensor" },
    json: { type: "boolean", description: "Print everything as JSON" },
  },
  examples: [
    "psionic inspect",
    "psionic inspect -m model.gguf --tensors",
    "psionic inspect -m model.gguf -c 8192 --json",
  ],
  async run({ args }) {
    const contextLength = wholeNumber(args["ctx-size"], "--ctx-size", 0);
    const slots = wholeNumber(args.parallel, "--parallel", 1, 256);
    const files = openModelFiles(modelPath(args.model));
    const backend = resolveBackend(args.backend);
    const { device } = deviceNumbers(args, backend);
    const plan = planOf(files, {
      ...{ backend, device },
      cacheType: args["cache-type"],
      ...(contextLength ? { contextLength } : {}),
      ...(slots === undefined ? {} : { slots }),
    });
    const report = { ...describe(files), plan };
    if (args.json) await printJson({ ...report, tensors: tensorRows(files) });
    else await print(reportText(report, args.tensors ? tensorRows(files) : []));
  },
});

/** The plan, or why there is none: a family that is not executed can still be looked at. */
type PlanOrRefusal = ModelPlan | { readonly refused: string; readonly code: string };

function planOf(files: ModelFiles, { device, ...options }: PlanOptions): PlanOrRefusal {
  try {
    const { backend = "cpu" } = options;
    const available = backend === "cpu" ? availableMemory() : freeOn(backend, device);
    return planModel(files, options, available);
  } catch (error) {
    if (error instanceof PsionicError) return { refused: error.message, code: error.code };
    throw error;
  }
}

type PlanOptions = NonNullable<Parameters<typeof planModel>[1]> & { readonly device: number | undefined };

/** Bytes free on a GPU. */
function freeOn(backend: Exclude<EngineBackend, "cpu">, number: number | undefined): number {
  const device = backend === "cuda" ? openDevice("cuda", { number }) : openDevice(backend);
  try {
    return device.backend.memory!().free;
  } finally {
    device.close();
  }
}

function describe(files: ModelFiles) {
  const tensors = [...files.tensors.values()];
  const types: Record<string, { tensors: number; bytes: number }> = {};
  for (const { dtype, bytes } of tensors) {
    types[dtype] ??= { tensors: 0, bytes: 0 };
    const type = types[dtype];
    type.tensors++;
    type.bytes += bytes;
  }
  return {
    path: files.path,
    kind: files.kind,
    architecture: files.architecture,
    files: files.files,
    parameters: tensors.reduce((n, { shape }) => n + shape.reduce((a, b) => a * b, 1), 0),
    tensorCount: tensors.length,
    types,
    metadata: files.kind === "gguf" ? ggufMetadata(files.metadata) : files.config,
    experts: expertTopology(files) ?? null,
  };
}

/** Long lists are shown by their length. */
const longestList = 16;

function ggufMetadata(metadata: ReadonlyMap<string, GgufValue>): Record<string, unknown> {
  const entries = [...metadata].map(([key, value]) => {
    if (value.type !== "array") {
      return [key, typeof value.value === "bigint" ? value.value.toString() : value.value];
    }
    const length = value.elementType === "string" ? value.value.toArray().length : value.value.length;
    if (length > longestList) return [key, { elementType: value.elementType, length }];
    const list =
      value.elementType === "string"
        ? value.value.toArray()
        : Array.from(value.value as ArrayLike<number | bigint>);
    return [key, list.map((v) => (typeof v === "bigint" ? v.toString() : v))];
  });
  return Object.fromEntries(entries);
}

function tensorRows(files: ModelFiles) {
  return [...files.tensors.values()].map(({ name, dtype, shape, file, offset, bytes }) => ({
    ...{ name, dtype, shape, file, offset, bytes },
  }));
}

function reportText(
  {
    path,
    kind,
    architecture,
    parameters,
    tensorCount,
    types,
    metadata,
    experts,
    plan,
    files,
  }: ReturnType<typeof describe> & {
    readonly plan: PlanOrRefusal;
  },
  tensors: ReturnType<typeof tensorRows>,
): string {
  const bytes = files.reduce((sum, f) => sum + f.bytes, 0);
  const sections = [
    table([
      ["path", path],
      ["kind", `${kind}, ${files.length} ${files.length === 1 ? "file" : "files"}, ${readableBytes(bytes)}`],
      ["architecture", architecture],
      ["parameters", `${readableCount(parameters)} in ${tensorCount} tensors`],
      ...Object.entries(types).map(([type, t]) => [
        `  ${type}`,
        `${t.tensors} tensors, ${readableBytes(t.bytes)}`,
      ]),
    ]),
    `Metadata\n${table(Object.entries(metadata).map(([key, value]) => [`  ${key}`, shortValue(value)]))}`,
  ];
  if (experts) sections.push(`Experts\n${expertText(experts)}`);
  sections.push(`Plan\n${planText(plan)}`);
  if (tensors.length > 0) {
    const rows = tensors.map((t) => [
      `  ${t.name}`,
      t.dtype,
      `[${t.shape.join(", ")}]`,
      String(t.offset),
      readableBytes(t.bytes),
    ]);
    sections.push(`Tensors\n${table(rows, [3, 4])}`);
  }
  return sections.join("\n\n");
}

function shortValue(value: unknown): string {
  const text = typeof value === "string" ? JSON.stringify(value) : JSON.stringify(value);
  return text.length > 100 ? `${text.slice(0, 97)}...` : text;
}

function expertText({ experts, used, shared, layers, bytesPerExpert, expertBytes }: ExpertTopology): string {
  return table([
    ["  experts per layer", String(experts)],
    ["  used per token", used === undefined ? "not stated" : String(used)],
    ["  shared experts", shared ? "yes" : "no"],
    ["  layers with experts", `${layers.length} (${layers[0]} to ${layers.at(-1)})`],
    ["  bytes of one expert", readableBytes(bytesPerExpert)],
    ["  bytes of all", readableBytes(expertBytes)],
  ]);
}

function planText(plan: PlanOrRefusal): string {
  if ("refused" in plan) return `  none: ${plan.refused}`;
  const { memory } = plan;
  return table([
    ["  context", `${plan.contextLength} tokens`],
    ["  slots", String(plan.slots)],
    ["  cache type", plan.cacheType],
    ["  weights", readableBytes(memory.weightBytes)],
    ["  caches", readableBytes(memory.cacheBytes)],
    ["  workspace", readableBytes(memory.workspaceBytes)],
    ["  total", readableBytes(memory.totalBytes)],
    ["  process", `${readableBytes(memory.processBytes)} beside it, after some hundred requests`],
    ["  plan digest", plan.planDigest],
    ...plan.notes.map((note) => ["  note", note]),
  ]);
}
