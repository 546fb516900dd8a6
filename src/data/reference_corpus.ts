/** The reference corpus of the pilot lane: a few kilobytes of our own text in three sources, and its word vocabulary. */
import { sha256 } from "../core/digest.ts";
import { unexpected } from "../core/error.ts";
import text from "./reference_corpus.txt" with { type: "text" };

export type Section = {
  readonly source: string;
  readonly id: string;
  readonly title: string;
  readonly text: string;
};

/** Words by descending count, then by spelling, after `<pad> <bos> <eos> <unk>`. */
export type WordVocabulary = { readonly words: readonly string[]; encode(text: string): Int32Array };

export type ReferenceCorpus = {
  readonly identity: string;
  readonly digest: string;
  readonly sections: readonly Section[];
  readonly vocabulary: WordVocabulary;
  /** `<bos> words <eos>` of each section; the last section of each source is held out for validation. */
  readonly train: readonly EncodedSection[];
  readonly validation: readonly EncodedSection[];
};

export type EncodedSection = { readonly section: Section; readonly tokens: Int32Array };

const special = ["<pad>", "<bos>", "<eos>", "<unk>"];
const [, bos, eos, unknown] = [0, 1, 2, 3];

/** Runs of letters, digits and underscores, in lower case. */
const wordsOf = (t: string): string[] => t.toLowerCase().match(/[a-z0-9_]+/g) ?? [];

export function parseSections(corpus: string): Section[] {
  const sections: Section[] = [];
  let source: string | undefined;
  for (const line of corpus.split("\n")) {
    const mark = /^\[\[(SOURCE|SECTION):([^|\]]+)(?:\|([^\]]*))?\]\]$/.exec(line);
    const last = sections.at(-1);
    if (mark?.[1] === "SOURCE") source = mark[2]!;
    else if (mark && source !== undefined)
      sections.push({ source, id: mark[2]!, title: mark[3] ?? "", text: "" });
    else if (line.trim() !== "") {
      if (mark || !last)
        throw unexpected("file_malformed", "reference corpus", "a source and a section first", line);
      sections[sections.length - 1] = { ...last, text: `${last.text}${line}\n` };
    }
  }
  return sections;
}

export function wordVocabulary(texts: readonly string[]): WordVocabulary {
  const counts = new Map<string, number>();
  for (const word of texts.flatMap(wordsOf)) counts.set(word, (counts.get(word) ?? 0) + 1);
  const sorted = [...counts].sort(([a, n], [b, m]) => m - n || (a < b ? -1 : 1)).map(([word]) => word);
  const words = [...special, ...sorted];
  const ids = new Map(words.map((word, i) => [word, i]));
  return {
    words,
    encode: (t) => Int32Array.from([bos!, ...wordsOf(t).map((word) => ids.get(word) ?? unknown!), eos!]),
  };
}

export function referenceCorpus(): ReferenceCorpus {
  const sections = parseSections(text);
  const isLast = (s: Section, i: number): boolean => sections[i + 1]?.source !== s.source;
  const training = sections.filter((s, i) => !isLast(s, i));
  const vocabulary = wordVocabulary(training.map((s) => s.text));
  const encoded = (list: readonly Section[]): EncodedSection[] =>
    list.map((section) => ({ section, tokens: vocabulary.encode(section.text) }));
  return {
    identity: "psion_reference_tokenized@v1",
    digest: sha256(text),
    sections,
    vocabulary,
    train: encoded(training),
    validation: encoded(sections.filter(isLast)),
  };
}
