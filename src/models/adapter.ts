/**
 * Low-rank adapters (arXiv:2106.09685) as they are exchanged, and as the adapter lane leaves them: `adapter_config.json` and
 * `adapter_model.safetensors` with A [r, in] and B [out, r] of each adapted matrix. The base stays as it is:
 * y = W x + (alpha / r) B (A x).
 */
import { readFileSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { sha256 } from "../core/digest.ts";
import { unexpected } from "../core/error.ts";
import { fileError, memorySource } from "./files/bytes.ts";
import { parseSafetensors } from "./files/safetensors.ts";
import { isObject, type Json, parseJson } from "./files/strict_json.ts";
import type { TensorRecord } from "./files/tensors.ts";

/** A and B of one matrix, row by row. */
export type LowRank = {
  /** [r, inputs] */
  readonly down: Float32Array;
  /** [outputs, r], times alpha / r. */
  readonly up: Float32Array;
};

export type Adapter = {
  /** Of its weights. */
  readonly path: string;
  readonly rank: number;
  readonly alpha: number;
  /** SHA-256 of the weights' file. */
  readonly digest: string;
  /** SHA-256 of the model that it was trained on, where its settings tell. */
  readonly baseDigest: string | undefined;
  readonly parameters: number;
  /** By the names of the matrices as GGUF has them, without `.weight`. */
  readonly matrices: ReadonlyMap<string, LowRank>;
};

const weightsName = "adapter_model.safetensors";
const configName = "adapter_config.json";

/** Larger than any adapter of the models that are served; its bytes are held at once. */
const largestFile = 2 ** 31;

/** `path`: the folder with both files, or the weights' file. Throws `file_malformed` or `unsupported`, naming what it is about. */
export function openAdapter(path: string): Adapter {
  const found = statSync(path, { throwIfNoEntry: false });
  if (!found) throw unexpected("file_not_found", path, `${weightsName} or the folder with it`, "nothing");
  const file = found.isDirectory() ? join(path, weightsName) : path;
  const config = readConfig(join(dirname(file), configName));
  const bytes = bytesOf(file);
  const source = memorySource(file, bytes);
  const records = parseSafetensors(source);
  const matrices = new Map<string, LowRank>();
  let parameters = 0;
  for (const [name, record] of records) {
    const [, module, part] = /^base_model\.model\.(.+)\.lora_([AB])\.weight$/.exec(name) ?? [];
    if (module === undefined)
      throw unexpected(
        "unsupported",
        file,
        "base_model.model.<matrix>.lora_A.weight and lora_B.weight",
        name,
      );
    parameters += record.shape.reduce((n, size) => n * size, 1);
    if (part === "B") {
      if (records.has(nameOf(module, "A"))) continue;
      throw unexpected("file_malformed", file, nameOf(module, "A"), "nothing");
    }
    const stored = storedName(module) ?? refuseModule(file, module);
    if (matrices.has(stored)) throw unexpected("file_malformed", file, `${stored} once`, name);
    const other = records.get(nameOf(module, "B"));
    if (!other) throw unexpected("file_malformed", file, nameOf(module, "B"), "nothing");
    const read = (r: TensorRecord, at: string) => floats(source, file, at, r);
    checkRank(file, name, record.shape[0], config.rank);
    checkRank(file, nameOf(module, "B"), other.shape[1], config.rank);
    const up = read(other, nameOf(module, "B"));
    const scale = config.alpha / config.rank;
    for (let i = 0; i < up.length; i++) up[i] = up[i]! * scale;
    checkFinite(file, nameOf(module, "B"), up);
    const down = read(record, name);
    checkFinite(file, name, down);
    matrices.set(stored, { down, up });
  }
  if (matrices.size === 0) throw unexpected("file_malformed", file, "adapted matrices", "none");
  return { ...config, path: file, digest: sha256(bytes), parameters, matrices };
}

const nameOf = (module: string, part: "A" | "B"): string => `base_model.model.${module}.lora_${part}.weight`;

/** Matrices that are applied by `linear` in every family, by the ends of their names. */
const parts: Readonly<Record<string, string>> = {
  "self_attn.q_proj": "attn_q",
  "self_attn.k_proj": "attn_k",
  "self_attn.v_proj": "attn_v",
  "self_attn.o_proj": "attn_output",
  "mlp.gate_proj": "ffn_gate",
  "mlp.up_proj": "ffn_up",
  "mlp.down_proj": "ffn_down",
};

function storedName(module: string): string | undefined {
  if (module === "lm_head") return "output";
  const [, layer, part = ""] = /^model\.layers\.(\d+)\.(.+)$/.exec(module) ?? [];
  const stored = parts[part];
  return layer !== undefined && stored !== undefined ? `blk.${Number(layer)}.${stored}` : undefined;
}

function refuseModule(file: string, module: string): never {
  const known = `${Object.keys(parts).join(", ")} of model.layers.<n>, or lm_head`;
  throw unexpected("unsupported", file, `adapters of ${known}`, module, { details: { matrix: module } });
}

function checkRank(file: string, name: string, got: number | undefined, rank: number): void {
  if (got !== rank) throw unexpected("file_malformed", file, `rank ${rank} in ${name}`, got ?? "none");
}

/** What is no number would make every answer none, of all requests in a step. */
function checkFinite(file: string, name: string, values: Float32Array): void {
  const found = values.find((value) => !Number.isFinite(value));
  if (found !== undefined) throw unexpected("file_malformed", file, `finite numbers in ${name}`, found);
}

function floats(
  source: ReturnType<typeof memorySource>,
  file: string,
  name: string,
  { dtype, shape, offset, bytes }: TensorRecord,
): Float32Array {
  if (shape.length !== 2) throw unexpected("file_malformed", file, `a matrix as ${name}`, `[${shape}]`);
  const data = new Uint8Array(bytes);
  source.read(offset, data);
  if (dtype === "f32") return new Float32Array(data.buffer);
  if (dtype === "f16") return Float32Array.from(new Float16Array(data.buffer));
  if (dtype === "bf16") {
    const words = Uint32Array.from(new Uint16Array(data.buffer), (half) => half << 16);
    return new Float32Array(words.buffer);
  }
  throw unexpected("unsupported", file, `f32, f16 or bf16 in ${name}`, dtype);
}

function bytesOf(file: string): Uint8Array {
  try {
    const { size } = statSync(file);
    if (size > largestFile) throw unexpected("unsupported", file, `at most ${largestFile} bytes`, size);
    return new Uint8Array(readFileSync(file));
  } catch (cause) {
    throw fileError(file, cause);
  }
}

/** Settings that change what is computed, with the values that mean it is what is computed here. */
const plain: Readonly<Record<string, readonly Json[]>> = {
  peft_type: ["LORA"],
  bias: ["none"],
  fan_in_fan_out: [false],
  use_rslora: [false],
  use_dora: [false],
  rank_pattern: [],
  alpha_pattern: [],
  modules_to_save: [],
  layers_to_transform: [],
  layer_replication: [],
  lora_bias: [false],
  use_qalora: [false],
  alora_invocation_tokens: [],
};

function readConfig(path: string): Pick<Adapter, "rank" | "alpha" | "baseDigest"> {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (cause) {
    throw fileError(path, cause);
  }
  const config = parseJson(text, path);
  if (!isObject(config)) throw unexpected("file_malformed", path, "a JSON object", text.slice(0, 40));
  for (const [key, meant] of Object.entries(plain)) {
    const value = config[key] ?? null;
    const empty = value === null || (typeof value === "object" && Object.keys(value).length === 0);
    if (empty || meant.includes(value)) continue;
    const expected = `${key} ${meant.length > 0 ? JSON.stringify(meant[0]) : "empty"}`;
    throw unexpected("unsupported", path, expected, JSON.stringify(value).slice(0, 80));
  }
  const { r, lora_alpha, base_digest = null, base_seed = null } = config;
  if (typeof r !== "number" || !Number.isInteger(r) || r < 1 || r > 4096)
    throw unexpected("file_malformed", path, "r, a rank from 1 to 4096", JSON.stringify(r ?? null));
  const alpha = lora_alpha ?? r;
  if (typeof alpha !== "number" || alpha === 0 || !(Math.abs(alpha) < 1e9))
    throw unexpected(
      "file_malformed",
      path,
      "lora_alpha, a number other than 0",
      JSON.stringify(alpha).slice(0, 80),
    );
  if (base_seed !== null)
    throw unexpected(
      "unsupported",
      path,
      "an adapter of a stored model",
      `one of weights made from seed ${base_seed}`,
    );
  if (base_digest !== null && (typeof base_digest !== "string" || !/^[0-9a-f]{64}$/.test(base_digest)))
    throw unexpected(
      "file_malformed",
      path,
      "base_digest, 64 hex digits",
      JSON.stringify(base_digest).slice(0, 80),
    );
  return { rank: r, alpha, baseDigest: base_digest ?? undefined };
}
