import type { Program, ProgramRule } from "./program.ts";

/** A rule as it travels: the words of those that list any stand behind it. */
type PackedRule =
  | Exclude<ProgramRule, { kind: "words" }>
  | { readonly kind: "words"; readonly count: number };

/**
 * A program as one buffer, which changes threads without being copied or parsed: six counts (nodes, root, numbers of edges,
 * bytes of rules, words, bytes of words), the edges, the needs of the nodes, the lengths of the words, the rules as JSON, the
 * words. i32; texts are filled up to whole numbers.
 */
export function packProgram({ nodes, root, edges, needs, rules }: Program): Int32Array<ArrayBuffer> {
  const words = rules.flatMap((rule) => (rule.kind === "words" ? rule.words : []));
  const packed = rules.map(
    (rule): PackedRule => (rule.kind === "words" ? { kind: "words", count: rule.words.length } : rule),
  );
  const ruleText = Buffer.from(JSON.stringify(packed));
  const wordText = Buffer.from(words.join(""), "latin1");
  const counts = [nodes, root, edges.length, ruleText.length, words.length, wordText.length];
  const size = counts.length + edges.length + nodes + words.length;
  const out = new Int32Array(size + numbersOf(ruleText) + numbersOf(wordText));
  out.set(counts);
  out.set(edges, counts.length);
  out.set(needs, counts.length + edges.length);
  words.forEach((word, i) => {
    out[size - words.length + i] = word.length;
  });
  const bytes = new Uint8Array(out.buffer);
  bytes.set(ruleText, size * 4);
  bytes.set(wordText, (size + numbersOf(ruleText)) * 4);
  return out;
}

/** The program that `packProgram` packed; its edges and needs are views of the buffer. */
export function unpackProgram(packed: Int32Array): Program {
  const [nodes = 0, root = 0, edgeNumbers = 0, ruleBytes = 0, wordCount = 0, wordBytes = 0] = packed;
  let at = headerNumbers;
  const take = (count: number): Int32Array => {
    at += count;
    return packed.subarray(at - count, at);
  };
  const [edges, needs, lengths] = [take(edgeNumbers), take(nodes), take(wordCount)];
  const text = (bytes: number): Buffer => {
    const { buffer, byteOffset } = take(Math.ceil(bytes / 4));
    return Buffer.from(buffer, byteOffset, bytes);
  };
  const rules = JSON.parse(text(ruleBytes).toString("utf8")) as PackedRule[];
  const all = text(wordBytes).toString("latin1");
  let [word, end] = [0, 0];
  const next = (): string => {
    const start = end;
    end += lengths[word++]!;
    return all.slice(start, end);
  };
  return {
    ...{ nodes, root, edges, needs },
    rules: rules.map((rule): ProgramRule => {
      if (rule.kind !== "words") return rule;
      return { kind: "words", words: Array.from({ length: rule.count }, next) };
    }),
  };
}

const headerNumbers = 6;

function numbersOf(text: Buffer): number {
  return Math.ceil(text.length / 4);
}
