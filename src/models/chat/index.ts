export { fuzzHarmony } from "./fuzz.ts";
export { encodePieces, textOf } from "./pieces.ts";
export { chatFormatFor } from "./select.ts";
export type * from "./types.ts";
