import { existsSync } from "node:fs";
import { unexpected } from "../core/error.ts";
import { defaultModelPath } from "./default_model.ts";
import { findStored } from "./store/manifest.ts";

/** The option that names a model, the same in every command. */
export const modelOption = {
  model: {
    type: "string",
    alias: "m",
    valueHint: "MODEL",
    description:
      "GGUF file (any part of a split one), Hugging Face folder, or name of a pulled model; absent: the built-in model",
  },
} as const;

/** Path of the model a command is to use: a path that is there comes before a pulled model of the same name. */
export function modelPath(asked: string | undefined): string {
  if (asked === undefined) return defaultModelPath();
  if (existsSync(asked)) return asked;
  const stored = findStored(asked);
  if (stored) return stored.path;
  // what cannot be a name is told as the path that it is
  if (!/^[\w.-]+\/[\w.-]+(:[^/].*)?$/.test(asked) || /\.(gguf|safetensors)$/.test(asked)) return asked;
  throw unexpected("file_not_found", asked, "a file, a folder or a pulled model", "none of this name", {
    fix: `If it is on the hub: psionic pull ${asked}`,
  });
}
