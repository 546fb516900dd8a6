import { readFileSync } from "node:fs";
import { join } from "node:path";
import { unexpected } from "../core/error.ts";
import type { ModelFiles } from "./files/source.ts";

/** How one vector is made of a text's hidden states: their mean, that of the first or the last token, or a score. */
export type Pooling = "mean" | "first" | "last" | "rank";

/** GGUF's numbers for them; 0 says that nothing was said. */
const ggufPoolings: readonly (Pooling | undefined)[] = [undefined, "mean", "first", "last", "rank"];

/** What a model's files say of pooling; undefined where they say nothing. Throws `file_malformed` or `unsupported`. */
export function poolingOf(files: ModelFiles): Pooling | undefined {
  if (files.kind === "safetensors") return checkpointPooling(join(files.path, "1_Pooling", "config.json"));
  const key = `${files.architecture}.pooling_type`;
  const value = files.setting(key);
  if (value === undefined) return undefined;
  if (typeof value === "number" && Number.isInteger(value) && value >= 0 && value < ggufPoolings.length)
    return ggufPoolings[value];
  throw unexpected("file_malformed", key, "a number from 0 to 4", JSON.stringify(value)?.slice(0, 40));
}

/** sentence-transformers' file beside a checkpoint. */
function checkpointPooling(path: string): Pooling | undefined {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch {
    // most checkpoints were not made for embeddings and have none
    return undefined;
  }
  let config: unknown;
  try {
    config = JSON.parse(text);
  } catch (cause) {
    throw unexpected("file_malformed", path, "JSON", "something else", { cause });
  }
  if (typeof config !== "object" || config === null)
    throw unexpected("file_malformed", path, "an object", typeof config);
  const modes = Object.entries(config).flatMap(([name, value]) =>
    name.startsWith("pooling_mode_") && value === true ? [name.slice("pooling_mode_".length)] : [],
  );
  const known = new Map<string, Pooling>([
    ["mean_tokens", "mean"],
    ["cls_token", "first"],
    ["lasttoken", "last"],
  ]);
  const [mode, ...more] = modes;
  if (mode === undefined) return undefined;
  const pooling = known.get(mode);
  if (pooling !== undefined && more.length === 0) return pooling;
  throw unexpected("unsupported", path, "one of mean_tokens, cls_token, lasttoken", modes.join(" and "));
}
