export { fuzzHarmony } from "./fuzz.ts";
export { chatFormatFor } from "./select.ts";
export type * from "./types.ts";
