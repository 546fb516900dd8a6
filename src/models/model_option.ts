import { defaultModelPath } from "./default_model.ts";

/** The option that names a model, the same in every command. */
export const modelOption = {
  model: {
    type: "string",
    alias: "m",
    valueHint: "PATH",
    description: "GGUF file (any part of a split one) or Hugging Face folder; absent: the built-in model",
  },
} as const;

/** Path of the model a command is to use. */
export function modelPath(asked: string | undefined): string {
  return asked ?? defaultModelPath();
}
