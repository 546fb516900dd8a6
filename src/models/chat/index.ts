export { fuzzHarmony } from "./fuzz.ts";
export { fuzzGemma4, fuzzQwen35 } from "./fuzz_calls.ts";
export { harmonyFormat as harmonyOf } from "./harmony.ts";
export { encodePieces, textOf } from "./pieces.ts";
export { type ChatModel, chatFormatFor } from "./select.ts";
export type * from "./types.ts";
