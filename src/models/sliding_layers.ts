/** Which layers of a model attend to a window only, as files say it. */
import { unexpected } from "../core/error.ts";
import type { Settings } from "./settings.ts";

/** Layer i of runs of `period` slides unless it is the last of its run; with a period of 0 every layer does. */
export function periodic(layers: number, period: number): boolean[] {
  return Array.from({ length: layers }, (_, i) => period === 0 || i % period < period - 1);
}

/** GGUF: `sliding_window_pattern` is a period or a list with true for the layers that slide. */
export function slidingFromGguf(s: Settings, key: string, layers: number, period: number): boolean[] {
  const list = s.list(key);
  if (!list || list.length === 1) return periodic(layers, s.count(key, period));
  if (list.length < layers || !list.every((v) => typeof v === "boolean" || v === 0 || v === 1)) {
    throw unexpected(
      "file_malformed",
      s.where,
      `true or false for each of ${layers} layers in ${key}`,
      JSON.stringify(list.slice(0, 8)),
    );
  }
  return list.slice(0, layers).map(Boolean);
}

/** `config.json`: `layer_types` names each layer's kind; `otherwise` is the family's rule where it is absent. */
export function slidingFromCheckpoint(s: Settings, layers: number, otherwise: readonly boolean[]): boolean[] {
  const list = s.list("layer_types");
  if (!list) return [...otherwise];
  if (list.length < layers) throw unexpected("file_malformed", s.where, `${layers} layer_types`, list.length);
  return list.slice(0, layers).map((kind) => {
    if (kind === "sliding_attention") return true;
    if (kind === "full_attention") return false;
    throw unexpected(
      "unsupported",
      s.where,
      "layer_types of full_attention and sliding_attention",
      JSON.stringify(kind) ?? "nothing",
    );
  });
}
