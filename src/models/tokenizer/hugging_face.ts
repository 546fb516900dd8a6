import { unexpected } from "../../core/error.ts";
import { alphabetBytes, byteLevelEncoder, type EncodeText, mergeRules } from "./byte_level.ts";
import { type Prepare, readNormalizer, readPreTokenizer, readSpaceStrip } from "./hugging_face_steps.ts";
import {
  isRecord,
  namedId,
  readAddedTokens,
  readBpe,
  readEnds,
  record,
  stopIds,
} from "./hugging_face_tables.ts";
import { characterEncoder, markBytes } from "./sentence_piece.ts";
import { makeTokenizer, type Tokenizer } from "./tokenizer.ts";
import { makeVocabulary, TokenType } from "./vocabulary.ts";

/**
 * A tokenizer from the parsed `tokenizer.json` of a Hugging Face folder. `config` is its `tokenizer_config.json`, which
 * names BOS and EOS; `generationConfig` is `generation_config.json` (or `config.json`), for its `eos_token_id`.
 */
export function tokenizerFromHuggingFace(
  tokenizerJson: unknown,
  config?: unknown,
  generationConfig?: unknown,
): Tokenizer {
  const root = record(tokenizerJson, "the whole file");
  const model = record(root.model, "model");
  const bpe = readBpe(model);
  const added = readAddedTokens(root.added_tokens);
  const { texts, types } = placeTokens(bpe, added);
  const settings = isRecord(config) ? config : {};
  const ends = readEnds(root.post_processor, settings, texts);
  const normalize = readNormalizer(root.normalizer);
  const pre = readPreTokenizer(root.pre_tokenizer, normalize);
  const unknown = unknownToken(bpe, types);
  const roles = { bos: ends.bos, eos: ends.eos, unknown, padding: namedId(settings.pad_token, texts) };
  const vocabulary = makeVocabulary(texts, types, roles, stopIds(generationConfig, texts.length));
  const rules = mergeRules(bpe.merges, vocabulary);
  refuseChangedTokens(added, normalize);

  const strips = new Map(added.map((t) => [t.id, { left: t.stripLeft, right: t.stripRight }]));
  const parts = { vocabulary, addBos: ends.addBos, addEos: ends.addEos, strips };
  if (pre.kind === "bytes") {
    const { split } = pre.preTokenizer;
    const encode = byteLevelEncoder(vocabulary, rules, { split, ignoreMerges: bpe.ignoreMerges });
    readSpaceStrip(root.decoder, "bytes");
    return makeTokenizer({
      ...parts,
      kind: "gpt2",
      pre: pre.name,
      encodeText: normalised(normalize, encode),
      bytesOf: alphabetBytes,
      spacePrefix: false,
    });
  }
  const encode = characterEncoder(vocabulary, rules, bpe);
  return makeTokenizer({
    ...parts,
    kind: "llama",
    pre: "",
    encodeText: normalised((text, start) => pre.prepare(normalize(text, start), start), encode),
    bytesOf: markBytes,
    spacePrefix: readSpaceStrip(root.decoder, "characters"),
  });
}

function normalised(prepare: Prepare, encode: EncodeText): EncodeText {
  return (text, out) => encode(prepare(text, out.length === 0), out);
}

type Bpe = ReturnType<typeof readBpe>;
type Added = ReturnType<typeof readAddedTokens>;

/** Token texts and types by id; ids that neither table names are left unused. */
function placeTokens(bpe: Bpe, added: Added): { texts: string[]; types: Uint8Array } {
  let size = 0;
  for (const id of bpe.vocabulary.values()) size = Math.max(size, id + 1);
  for (const { id } of added) size = Math.max(size, id + 1);
  const texts = new Array<string>(size).fill("");
  const types = new Uint8Array(size).fill(TokenType.unused);
  for (const [text, id] of bpe.vocabulary) {
    texts[id] = text;
    const isByte = bpe.byteFallback && /^<0x[0-9A-F]{2}>$/.test(text);
    types[id] = isByte ? TokenType.byte : TokenType.normal;
  }
  for (const token of added) {
    texts[token.id] = token.text;
    types[token.id] = token.special ? TokenType.control : TokenType.userDefined;
  }
  return { texts, types };
}

function unknownToken(bpe: Bpe, types: Uint8Array): number | undefined {
  if (bpe.unknown === undefined) return undefined;
  const id = bpe.vocabulary.get(bpe.unknown);
  if (id !== undefined) types[id] = TokenType.unknown;
  return id;
}

/** Added tokens are found in the text as given; one that the normaliser would change could be found in neither form. */
function refuseChangedTokens(added: Added, normalize: Prepare): void {
  for (const token of added) {
    if (!token.normalized || normalize(token.text, false) === token.text) continue;
    const got = JSON.stringify(token.text.slice(0, 60));
    throw unexpected(
      "unsupported",
      "tokenizer.json, added_tokens",
      "normalised tokens that normalising keeps",
      got,
    );
  }
}
