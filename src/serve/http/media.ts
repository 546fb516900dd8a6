import type { ChatFormat, ContentPart, MediaSupport } from "../../models/chat/index.ts";
import { describe } from "./body.ts";
import { badField, HttpError, unsupportedField } from "./errors.ts";

/** Types of parts that are media, under all APIs' names. */
const kinds: ReadonlyMap<unknown, "image" | "video" | "audio" | "file"> = new Map([
  ...(["image_url", "input_image", "image"] as const).map((type) => [type, "image"] as const),
  ...(["video_url", "input_video", "video"] as const).map((type) => [type, "video"] as const),
  ...(["input_audio", "audio_url", "audio"] as const).map((type) => [type, "audio"] as const),
  ...(["file", "input_file", "document"] as const).map((type) => [type, "file"] as const),
]);

/** Whether a part's type is one of media. */
export function isMedia(type: unknown): boolean {
  return kinds.has(type);
}

/** What a part of media becomes in the prompt; throws the refusal of the lane that would have to read it. */
export function readMedia(type: unknown, param: string, { media }: ChatFormat, role: string): ContentPart {
  const kind = kinds.get(type);
  if (kind === undefined) throw badField(`${param}.type`, "a known part", describe(type));
  const projects = media?.visual?.mode === "prompt_projection_only";
  if (!projects || (kind !== "image" && kind !== "video")) throw mediaRefusal(String(type), param, media);
  if (role !== "user") {
    const fix = "Send images and videos in user messages.";
    throw refusal(
      unsupportedField(param, `${kind} input in a ${role} message`, fix),
      param,
      "unsupported_media",
    );
  }
  return { type: kind };
}

/** A 400 that says why media are not read, and by whom they would be. */
export function mediaRefusal(type: string, param: string, media?: MediaSupport): HttpError {
  const kind = kinds.get(type);
  const { family = "", visual, audio, audioSizes } = media ?? {};
  if ((kind === "image" || kind === "video") && visual?.mode === "processor_owned") {
    const text =
      `${family} image and video input needs the processor-owned multimodal lane of ${visual.owner}. ` +
      "Direct media URLs are not projected through text; send text.";
    return refusal(new HttpError(400, `[${param}] ${text}`), param, "processor_owned_lane_required");
  }
  if (kind === "audio" && audio !== undefined) {
    const text = `${family} input_audio needs the processor-owned audio lane of ${audio.owner}. Send text.`;
    return refusal(new HttpError(400, `[${param}] ${text}`), param, "processor_owned_lane_required");
  }
  if (kind === "audio" && audioSizes !== undefined) {
    const text = `${family} audio is unavailable on this lane; only ${audioSizes.join(" and ")} publish it. Send text.`;
    return refusal(new HttpError(400, `[${param}] ${text}`), param, "unavailable_on_this_lane");
  }
  const reads = family === "" ? "This model reads text only." : `This ${family} model reads text only.`;
  return refusal(unsupportedField(param, `${type} input`, reads), param, "unsupported_media");
}

function refusal({ message }: HttpError, param: string, code: string): HttpError {
  return new HttpError(400, message, { param, code });
}

/** What `/health` says of media, and `/v1/models` with a prefix. */
export function mediaFields(media: MediaSupport | undefined): Readonly<Record<string, unknown>> {
  const { visual, audio } = media ?? {};
  return {
    ...(visual
      ? { multimodal_projection_mode: visual.mode, multimodal_supported_media: ["image", "video"] }
      : {}),
    ...(visual?.mode === "prompt_projection_only"
      ? {
          multimodal_projection_config: {
            vision_block_count: visual.blocks,
            vision_embedding_length: visual.width,
            vision_start_token_id: visual.tokens.visionStart,
            vision_end_token_id: visual.tokens.visionEnd,
            image_token_id: visual.tokens.image,
          },
        }
      : {}),
    ...(audio ? { audio_input_mode: audio.mode, audio_input_parts: ["input_audio"] } : {}),
  };
}
