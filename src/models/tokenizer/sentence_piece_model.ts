/** SentencePiece's own model file (a protobuf message of pieces and settings): read with every length checked, and written. */
import { unexpected } from "../../core/error.ts";
import { characterEncoder, MARK, markBytes, scoreRules } from "./sentence_piece.ts";
import { makeTokenizer, type Tokenizer } from "./tokenizer.ts";
import { checkSize, makeVocabulary, TokenType } from "./vocabulary.ts";

/** Types of pieces, as the file numbers them. */
export const pieceType = { normal: 1, unknown: 2, control: 3, userDefined: 4, unused: 5, byte: 6 } as const;

export type Piece = { readonly text: string; readonly score: number; readonly type: number };

export type PieceModel = {
  readonly pieces: readonly Piece[];
  readonly byteFallback: boolean;
  /** Ids; -1 for none. */
  readonly unknown: number;
  readonly bos: number;
  readonly eos: number;
  readonly padding: number;
  readonly addDummyPrefix: boolean;
  readonly removeExtraWhitespaces: boolean;
  readonly escapeWhitespaces: boolean;
  /** The file normalises characters by a table of its own. */
  readonly hasCharsMap: boolean;
};

const where = "SentencePiece model";
const BPE = 2;

type Field = { readonly number: number; readonly value: number | Uint8Array };

/** Fields of a message: varints as numbers, lengths as bytes, 32-bit values as bytes. */
function* fieldsOf(bytes: Uint8Array): Generator<Field> {
  let at = 0;
  const cut = (): Error =>
    unexpected("file_malformed", where, "a whole protobuf message", `an end at byte ${at}`);
  const varint = (): number => {
    let value = 0n;
    for (let shift = 0n; shift < 70n; shift += 7n) {
      const byte = bytes[at++];
      if (byte === undefined) throw cut();
      value |= BigInt(byte & 127) << shift;
      // a negative number is one of 64 bits
      if (byte < 128) return Number(BigInt.asIntN(64, value));
    }
    throw unexpected("file_malformed", where, "numbers of at most 10 bytes", "a longer one");
  };
  const take = (length: number): Uint8Array => {
    if (length < 0 || at + length > bytes.length) throw cut();
    at += length;
    return bytes.subarray(at - length, at);
  };
  while (at < bytes.length) {
    const key = varint();
    const number = Math.floor(key / 8);
    const wire = key % 8;
    if (wire === 0) yield { number, value: varint() };
    else if (wire === 1) yield { number, value: take(8) };
    else if (wire === 2) yield { number, value: take(varint()) };
    else if (wire === 5) yield { number, value: take(4) };
    else throw unexpected("file_malformed", where, "a protobuf wire type", wire);
  }
}

const isBytes = (value: Field["value"]): value is Uint8Array => typeof value !== "number";

function textOf(value: Field["value"]): string {
  try {
    if (isBytes(value)) return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(value);
  } catch {}
  throw unexpected("file_malformed", where, "pieces of UTF-8 text", "one that is not");
}

function pieceOf(message: Uint8Array): Piece {
  let [text, score, type]: [string, number, number] = ["", 0, pieceType.normal];
  for (const { number, value } of fieldsOf(message)) {
    if (number === 1) text = textOf(value);
    else if (number === 2 && isBytes(value) && value.length === 4)
      score = new DataView(value.buffer, value.byteOffset, 4).getFloat32(0, true);
    else if (number === 3 && !isBytes(value)) type = value;
  }
  if (!(type >= 1 && type <= 6)) throw unexpected("file_malformed", where, "a piece type from 1 to 6", type);
  if (Number.isNaN(score))
    throw unexpected("file_malformed", where, "scores that are numbers", `NaN of ${text}`);
  return { text, score, type };
}

/** Pieces and settings of a `.model` file; kinds other than BPE are declined by name. */
export function readPieceModel(bytes: Uint8Array): PieceModel {
  const pieces: Piece[] = [];
  const trainer = new Map<number, Field["value"]>();
  const normalizer = new Map<number, Field["value"]>();
  for (const { number, value } of fieldsOf(bytes)) {
    if (!isBytes(value)) continue;
    if (number === 1) pieces.push(pieceOf(value));
    else if (number === 2) for (const field of fieldsOf(value)) trainer.set(field.number, field.value);
    else if (number === 3) for (const field of fieldsOf(value)) normalizer.set(field.number, field.value);
  }
  checkSize(where, pieces.length);
  const kind = trainer.get(3) ?? 1;
  if (kind !== BPE) {
    const names = ["", "unigram", "bpe", "word", "char"];
    throw unexpected("unsupported", where, "a BPE model", names[Number(kind)] ?? kind);
  }
  const id = (field: number, byDefault: number): number => {
    const value = Number(trainer.get(field) ?? byDefault);
    return Number.isInteger(value) && value >= 0 && value < pieces.length ? value : -1;
  };
  const flag = (fields: ReadonlyMap<number, Field["value"]>, field: number, byDefault: boolean): boolean =>
    fields.has(field) ? fields.get(field) !== 0 : byDefault;
  const charsMap = normalizer.get(2);
  return {
    pieces,
    byteFallback: flag(trainer, 35, false),
    ...{ unknown: id(40, 0), bos: id(41, 1), eos: id(42, 2), padding: id(43, -1) },
    addDummyPrefix: flag(normalizer, 3, true),
    removeExtraWhitespaces: flag(normalizer, 4, true),
    escapeWhitespaces: flag(normalizer, 5, true),
    hasCharsMap: charsMap !== undefined && isBytes(charsMap) && charsMap.length > 0,
  };
}

/** A tokenizer of a `.model` file. What would change text before it is cut up is declined. */
export function tokenizerFromSentencePiece(bytes: Uint8Array): Tokenizer {
  const model = readPieceModel(bytes);
  const declined = (expected: string, got: string): Error => unexpected("unsupported", where, expected, got);
  if (model.hasCharsMap) throw declined("text taken as it is", "a table that normalises it");
  if (model.removeExtraWhitespaces) throw declined("blanks that are kept", "remove_extra_whitespaces");
  if (!model.escapeWhitespaces) throw declined("blanks written as marks", "escape_whitespaces false");
  const texts = model.pieces.map(({ text }) => text);
  const types = Uint8Array.from(model.pieces, ({ type }) => type);
  texts.forEach((text, id) => {
    if (types[id] === TokenType.byte && !/^<0x[0-9A-F]{2}>$/.test(text))
      throw unexpected("file_malformed", where, "byte pieces such as <0x0A>", text);
  });
  const role = (id: number): number | undefined => (id < 0 ? undefined : id);
  const roles = {
    bos: role(model.bos),
    eos: role(model.eos),
    unknown: role(model.unknown),
    padding: role(model.padding),
  } as const;
  const known = Object.fromEntries(Object.entries(roles).filter(([, id]) => id !== undefined));
  const vocabulary = makeVocabulary(texts, types, known, []);
  const rules = scoreRules(
    vocabulary,
    Float64Array.from(model.pieces, ({ score }) => score),
  );
  const encode = characterEncoder(vocabulary, rules, {
    ...{ ignoreMerges: false, fuseUnknown: true, byteFallback: model.byteFallback },
  });
  const prefix = model.addDummyPrefix ? MARK : "";
  return makeTokenizer({
    kind: "llama",
    pre: "",
    vocabulary,
    ...{ addBos: false, addEos: false },
    encodeText: (piece, out) => encode(prefix + piece.replaceAll(" ", MARK), out),
    bytesOf: markBytes,
    spacePrefix: prefix !== "",
  });
}

const utf8 = new TextEncoder();

function varint(value: number): number[] {
  // negative numbers are 64-bit two's complement: ten bytes
  let rest = BigInt.asUintN(64, BigInt(value));
  const out: number[] = [];
  while (rest >= 128n) {
    out.push(Number(rest & 127n) | 128);
    rest >>= 7n;
  }
  return [...out, Number(rest)];
}

const numberField = (field: number, value: number): number[] => [...varint(field * 8), ...varint(value)];
const bytesField = (field: number, bytes: ArrayLike<number>): number[] => [
  ...varint(field * 8 + 2),
  ...varint(bytes.length),
  ...Array.from(bytes),
];
const floatField = (field: number, value: number): number[] => [
  ...varint(field * 8 + 5),
  ...new Uint8Array(Float32Array.of(value).buffer),
];

/** The bytes of a `.model` file that SentencePiece loads. */
export function pieceModelBytes(model: PieceModel): Uint8Array {
  const piece = ({ text, score, type }: Piece): number[] => [
    ...bytesField(1, utf8.encode(text)),
    ...floatField(2, score),
    ...numberField(3, type),
  ];
  const trainer = [
    ...numberField(3, BPE),
    ...numberField(4, model.pieces.length),
    ...numberField(35, Number(model.byteFallback)),
    ...[model.unknown, model.bos, model.eos, model.padding].flatMap((id, i) => numberField(40 + i, id)),
  ];
  const normalizer = [
    ...bytesField(1, utf8.encode("identity")),
    ...numberField(3, Number(model.addDummyPrefix)),
    ...numberField(4, Number(model.removeExtraWhitespaces)),
    ...numberField(5, Number(model.escapeWhitespaces)),
  ];
  const parts = model.pieces.map((p) => Uint8Array.from(bytesField(1, piece(p))));
  return Buffer.concat([
    ...parts,
    Uint8Array.from(bytesField(2, trainer)),
    Uint8Array.from(bytesField(3, normalizer)),
  ]);
}
