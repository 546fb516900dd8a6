/** The model that the executable carries, as a base for adapters: its weights as 32-bit floats, its tokenizer. */
import { readFileSync } from "node:fs";
import { sha256 } from "../../core/digest.ts";
import { unexpected } from "../../core/error.ts";
import { defaultModelPath } from "../../models/default_model.ts";
import { openFile } from "../../models/files/bytes.ts";
import { type ModelFiles, openModelFiles } from "../../models/files/source.ts";
import type { GptOssConfig } from "../../models/gpt_oss.ts";
import { openTokenizer } from "../../models/open_tokenizer.ts";
import { readModel } from "../../models/registry.ts";
import type { Tokenizer } from "../../models/tokenizer/index.ts";
import { type GptOssTrainingConfig, gptOss } from "../../train/models/gpt_oss.ts";
import { type Parameters, part } from "../../train/parameters.ts";
import type { BaseModel } from "./profile_model.ts";

export const docsBaseName = "docs_oss_13m";

/** SHA-256 of the model's file. */
export const docsBaseDigest = (): string => sha256(readFileSync(defaultModelPath()));

/** Text is text: what looks like a control token is none. */
const encoding = { special: false } as const;

/** Texts in the model's tokens. */
export function encodedDocs(texts: readonly string[]): Int32Array[] {
  const tokenizer = openTokenizer(openModelFiles(defaultModelPath()));
  return texts.map((text) => Int32Array.from(tokenizer.encode(text, encoding)));
}

export function docsBase(): BaseModel {
  const files = openModelFiles(defaultModelPath());
  const config = readModel(files).config as GptOssConfig;
  const model = gptOss({ ...trainingConfig(config), balance: 0 });
  let tokenizer: Tokenizer | undefined;
  return {
    model: { ...model, id: docsBaseName },
    transposed: false,
    own: {
      digest: docsBaseDigest(),
      fill: (parameters) => fill(files, parameters),
      encode: (text) => {
        tokenizer ??= openTokenizer(files);
        return Int32Array.from(tokenizer.encode(text, encoding));
      },
    },
  };
}

/** The server's hyper-parameters as the trainer has them. */
function trainingConfig(c: GptOssConfig): Omit<GptOssTrainingConfig, "balance"> {
  const { width, layers, heads, kvHeads, headDim, window, experts, expertsUsed, expertFeedForward } = c;
  const { vocabularySize, contextLength, ropeBase, ropeScaling } = c;
  return {
    ...{ width, layers, heads, kvHeads, headDim, window, experts, expertsUsed, expertFeedForward },
    ...{ vocabularySize, contextLength, ropeBase, ropeScaling },
  };
}

const parts: Readonly<Record<string, string>> = {
  "self_attn.q_proj": "attn_q",
  "self_attn.k_proj": "attn_k",
  "self_attn.v_proj": "attn_v",
  "self_attn.o_proj": "attn_output",
  "self_attn.sinks": "attn_sinks.weight",
  input_layernorm: "attn_norm",
  post_attention_layernorm: "post_attention_norm",
  "mlp.router": "ffn_gate_inp",
  "mlp.experts.gate_proj": "ffn_gate_exps.weight",
  "mlp.experts.up_proj": "ffn_up_exps.weight",
  "mlp.experts.down_proj": "ffn_down_exps.weight",
  "mlp.experts.gate_proj_bias": "ffn_gate_exps.bias",
  "mlp.experts.up_proj_bias": "ffn_up_exps.bias",
  "mlp.experts.down_proj_bias": "ffn_down_exps.bias",
};
const outside: Readonly<Record<string, string>> = {
  "model.embed_tokens.weight": "token_embd.weight",
  "model.norm.weight": "output_norm.weight",
  "lm_head.weight": "output.weight",
};

/** Name in the file of a parameter as the trainer names it. */
function storedName(name: string): string {
  const found = /^model\.layers\.(\d+)\.(.+?)(\.weight|\.bias)?$/.exec(name);
  const stored = found ? parts[found[2]!] : outside[name];
  if (stored === undefined) throw unexpected("internal", docsBaseName, "a parameter of GPT-OSS", name);
  return found ? `blk.${found[1]}.${stored}${found[3] ?? ""}` : stored;
}

function fill(files: ModelFiles, parameters: Parameters): void {
  using source = openFile(files.files[0]!.path);
  for (const place of parameters.places) {
    const { name, shape } = place.spec;
    const record = files.tensors.get(storedName(name));
    if (record?.shape.join() !== shape.join())
      throw unexpected(
        "file_malformed",
        files.path,
        `[${shape}] as ${storedName(name)}`,
        record?.shape ?? "none",
      );
    const bytes = new Uint8Array(record.bytes);
    source.read(record.offset, bytes);
    parameters.device.upload(part(parameters.values, place, [place.count]), floats(record.dtype, bytes));
  }
  parameters.refresh();
}

function floats(dtype: string, bytes: Uint8Array): Float32Array {
  if (dtype === "f32") return new Float32Array(bytes.buffer);
  if (dtype === "q8_0") return fromQ8(bytes);
  if (dtype === "mxfp4") return fromMxfp4(bytes);
  throw unexpected("unsupported", docsBaseName, "f32, q8_0 or mxfp4", dtype);
}

/** Blocks of 32: a half-precision scale, then as many signed bytes. */
function fromQ8(bytes: Uint8Array): Float32Array {
  const blocks = bytes.length / 34;
  const out = new Float32Array(blocks * 32);
  const view = new DataView(bytes.buffer);
  for (let b = 0; b < blocks; b++) {
    const scale = view.getFloat16(b * 34, true);
    for (let i = 0; i < 32; i++) out[b * 32 + i] = scale * view.getInt8(b * 34 + 2 + i);
  }
  return out;
}

const fours = [0, 0.5, 1, 1.5, 2, 3, 4, 6, -0, -0.5, -1, -1.5, -2, -3, -4, -6];

/** Blocks of 32: a power of two, then 16 bytes whose low halves are the first 16 values. */
function fromMxfp4(bytes: Uint8Array): Float32Array {
  const blocks = bytes.length / 17;
  const out = new Float32Array(blocks * 32);
  for (let b = 0; b < blocks; b++) {
    const scale = 2 ** (bytes[b * 17]! - 127);
    for (let i = 0; i < 16; i++) {
      const byte = bytes[b * 17 + 1 + i]!;
      out[b * 32 + i] = scale * fours[byte & 15]!;
      out[b * 32 + 16 + i] = scale * fours[byte >> 4]!;
    }
  }
  return out;
}
