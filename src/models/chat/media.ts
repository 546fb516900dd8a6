import type { ChatTokenizer, MediaSupport } from "./types.ts";

/** What a model file says that its media lanes depend on. */
type MediaModel = {
  readonly architecture: string;
  readonly tokenizer: ChatTokenizer;
  readonly setting?: (key: string) => unknown;
  readonly names?: readonly string[];
};

/** The sizes that were made with an audio tower. */
const AUDIO_SIZES: readonly string[] = ["e2b", "e4b"];

/** Gemma 4: a processor of its own would read media; which, the file says. */
export function gemma4Media({ setting, names = [] }: MediaModel): MediaSupport {
  const sized = names.some((name) => AUDIO_SIZES.some((size) => name.toLowerCase().includes(size)));
  const sees = has(setting, "gemma4.vision.block_count", "vision_config");
  const hears = sized && has(setting, "gemma4.audio.block_count", "audio_config");
  return {
    family: "gemma4",
    ...(sees ? { visual: { mode: "processor_owned", owner: "gemma4_processor" } } : {}),
    ...(hears ? { audio: { mode: "processor_owned", owner: "gemma4_audio_processor" } } : {}),
    ...(sized ? {} : { audioSizes: AUDIO_SIZES }),
  };
}

/** Qwen 3.5: a file with a vision tower has images and videos as marks in its prompts. */
export function qwen35Media({ architecture, tokenizer, setting }: MediaModel): MediaSupport {
  const family = "qwen35";
  const fact = (name: string): unknown =>
    setting?.(`${architecture}.vision.${name}`) ?? setting?.(`qwen35.vision.${name}`);
  const config = setting?.("vision_config");
  const ofConfig = (name: string): unknown =>
    typeof config === "object" && config !== null ? (config as Record<string, unknown>)[name] : undefined;
  const blocks = fact("block_count") ?? ofConfig("depth");
  if (typeof blocks !== "number" || blocks <= 0) return { family };
  const width = fact("embedding_length") ?? ofConfig("hidden_size");
  return {
    family,
    visual: {
      mode: "prompt_projection_only",
      blocks,
      width: typeof width === "number" ? width : undefined,
      tokens: {
        visionStart: tokenizer.idOf("<|vision_start|>"),
        visionEnd: tokenizer.idOf("<|vision_end|>"),
        image: tokenizer.idOf("<|image_pad|>"),
      },
    },
  };
}

/** Whether a GGUF file has the count, or a checkpoint the configuration. */
function has(setting: MediaModel["setting"], count: string, config: string): boolean {
  const blocks = setting?.(count);
  const described = setting?.(config);
  return (typeof blocks === "number" && blocks > 0) || (typeof described === "object" && described !== null);
}
