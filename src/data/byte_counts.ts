/** Bytes of text that tokens stand for: what turns a loss per token into bits per byte. */
import { unexpected } from "../core/error.ts";
import { type PieceModel, pieceType, type Tokenizer } from "../models/tokenizer/index.ts";
import { MARK } from "../models/tokenizer/sentence_piece.ts";

/** By token id. A blank in front of a word counts unless the token before is a boundary: nothing was before the word then. */
export type ByteTable = {
  readonly bytes: Uint16Array;
  readonly leadingBlank: Uint8Array;
  readonly boundary: Uint8Array;
};

function emptyTable(size: number): ByteTable {
  return { bytes: new Uint16Array(size), leadingBlank: new Uint8Array(size), boundary: new Uint8Array(size) };
}

/** Of SentencePiece's pieces: bytes count 1; control, unknown and unused pieces count 0 and are boundaries. */
export function byteTableOfPieces({ pieces }: PieceModel): ByteTable {
  const table = emptyTable(pieces.length);
  for (const [id, { text, type }] of pieces.entries()) {
    if (type === pieceType.control || type === pieceType.unknown || type === pieceType.unused)
      table.boundary[id] = 1;
    else if (type === pieceType.byte) table.bytes[id] = 1;
    else {
      const leading = text.startsWith(MARK);
      table.leadingBlank[id] = Number(leading);
      table.bytes[id] = Buffer.byteLength((leading ? text.slice(1) : text).replaceAll(MARK, " "));
    }
  }
  return table;
}

/** Of any tokenizer; control tokens count 0 and are boundaries. */
export function byteTable(tokenizer: Tokenizer): ByteTable {
  const table = emptyTable(tokenizer.vocabularySize);
  for (let id = 0; id < tokenizer.vocabularySize; id++) {
    if (tokenizer.isControl(id)) {
      table.boundary[id] = 1;
      continue;
    }
    const leading = tokenizer.kind !== "gpt2" && tokenizer.tokenText(id).startsWith(MARK);
    table.leadingBlank[id] = Number(leading);
    table.bytes[id] = tokenizer.tokenBytes(id).length - Number(leading);
  }
  return table;
}

/** Bytes of the targets, each with the token before it. */
export function countBytes(
  table: ByteTable,
  targets: ArrayLike<number>,
  previous: ArrayLike<number>,
): number {
  if (targets.length !== previous.length)
    throw unexpected("invalid_argument", "byte count", `${targets.length} tokens before`, previous.length);
  const { bytes, leadingBlank, boundary } = table;
  let total = 0;
  for (let i = 0; i < targets.length; i++) {
    const target = targets[i]!;
    if (target < 0) continue;
    if (target >= bytes.length)
      throw unexpected("invalid_request", "byte count", `tokens below ${bytes.length}`, target, {
        fix: "The data were made with another tokenizer",
      });
    total += bytes[target]! + (leadingBlank[target]! & (1 - boundary[previous[i]!]!));
  }
  return total;
}
