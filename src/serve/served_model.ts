import { existsSync, readFileSync } from "node:fs";
import { basename, join } from "node:path";
import { chatFormatFor } from "../models/chat/index.ts";
import { type ModelFiles, openModelFiles } from "../models/files/source.ts";
import { openTokenizer } from "../models/open_tokenizer.ts";
import { type OnProgress, type OnWarning, startEngine } from "./engine/index.ts";
import type { ServedModel } from "./http/options.ts";
import type { EngineOptions } from "./protocol.ts";

/** Loads a model into an engine of its own, with its tokenizer and chat format. Closing the engine frees it. */
export async function openServedModel(
  options: EngineOptions,
  onProgress?: OnProgress,
  onWarning?: OnWarning,
): Promise<ServedModel> {
  // the engine's thread reads the header and the weights while this one builds the tokenizer
  const starting = startEngine(options, onProgress, onWarning);
  try {
    return { ...openText(options.modelPath), engine: await starting };
  } catch (error) {
    // no engine stays behind a text side that cannot be read; its own failure is the one thrown, or second to that
    starting.then(
      (engine) => engine.close(true),
      () => {},
    );
    throw error;
  }
}

/** The text side of a model: no weights are touched. */
export function openText(modelPath: string): Omit<ServedModel, "engine"> {
  const files = openModelFiles(modelPath);
  const tokenizer = openTokenizer(files);
  const chatTemplate = templateOf(files);
  const chat = chatFormatFor({
    architecture: files.architecture,
    template: chatTemplate,
    tokenizer,
    setting: (key) => files.setting(key),
    names: [basename(files.path), textOrNone(files.setting("general.name")) ?? ""],
  });
  const rerankTemplate = textOrNone(files.setting("tokenizer.chat_template.rerank"));
  return {
    ...{ tokenizer, chat },
    ...(chatTemplate === undefined ? {} : { chatTemplate }),
    ...(rerankTemplate === undefined ? {} : { rerankTemplate }),
  };
}

/** The template text: of the GGUF's metadata, or of a checkpoint's tokenizer config or `chat_template.jinja`. */
function templateOf(files: ModelFiles): string | undefined {
  if (files.kind === "gguf") return textOrNone(files.setting("tokenizer.chat_template"));
  const path = join(files.path, "chat_template.jinja");
  if (existsSync(path)) return readFileSync(path, "utf8");
  const config = files.tokenizerConfig;
  if (typeof config !== "object" || config === null || !("chat_template" in config)) return undefined;
  const named = Array.isArray(config.chat_template) ? defaultOf(config.chat_template) : config.chat_template;
  return textOrNone(named);
}

/** Some checkpoints list templates by name; tools and retrieval have their own. */
function defaultOf(templates: readonly unknown[]): unknown {
  const entries = templates as readonly ({ readonly name?: unknown; readonly template?: unknown } | null)[];
  return entries.find((entry) => entry?.name === "default")?.template;
}

function textOrNone(value: unknown): string | undefined {
  return typeof value === "string" && value !== "" ? value : undefined;
}
