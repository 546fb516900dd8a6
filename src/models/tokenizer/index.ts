export type { StreamDecoder } from "./decode.ts";
export { tokenizerFromGguf } from "./gguf.ts";
export type { DecodeOptions, EncodeOptions, Tokenizer } from "./tokenizer.ts";
