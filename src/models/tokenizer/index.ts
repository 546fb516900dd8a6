export type { StreamDecoder } from "./decode.ts";
export { tokenizerFromGguf } from "./gguf.ts";
export { tokenizerFromHuggingFace } from "./hugging_face.ts";
export {
  type Piece,
  type PieceModel,
  pieceType,
  readPieceModel,
  tokenizerFromSentencePiece,
} from "./sentence_piece_model.ts";
export type { DecodeOptions, EncodeOptions, Tokenizer } from "./tokenizer.ts";
