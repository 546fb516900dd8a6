/** What can be asked about a corpus: its numbered proposals (PEPs, RFCs, EIPs) and chapters, each with a first sentence. */
import type { Document } from "../../data/corpora/document.ts";

export type Proposal = {
  readonly kind: "PEP" | "RFC" | "EIP" | "chapter";
  /** 0 for a chapter. */
  readonly number: number;
  readonly title: string;
  /** Such as Final; absent where a document does not say. */
  readonly status?: string;
  /** The first sentence of its abstract; absent where none was found. */
  readonly summary?: string;
};

const kinds: readonly [Exclude<Proposal["kind"], "chapter">, RegExp][] = [
  ["PEP", /(?:^|\/)pep-(\d+)\.\w+$/i],
  ["EIP", /(?:^|\/)eip-(\d+)\.\w+$/i],
  ["RFC", /(?:^|\/)(\d{4})-[^/]+\.md$/i],
];

/** What a document proposes; undefined where its name is not that of a proposal or a chapter, or it has no title. */
export function proposalOf({ id, text, title: given = "" }: Document): Proposal | undefined {
  for (const [kind, pattern] of kinds) {
    const found = pattern.exec(id);
    if (!found) continue;
    const title = kind === "RFC" ? featureName(text, id) : plainText(given);
    if (title === "") return undefined;
    return { kind, number: Number(found[1]), title, ...statusOf(text), ...summaryOf(text) };
  }
  const heading = /^## +(.+)$/m.exec(text);
  if (!/(?:^|\/)ch\d\d-\d\d-[^/]+\.md$/.test(id) || !heading) return undefined;
  return {
    kind: "chapter",
    number: 0,
    title: plainText(heading[1]!),
    ...summaryAfter(text, heading.index + heading[0].length),
  };
}

/** The feature's name, or the words of the file's where that is only a place to fill in. */
function featureName(text: string, id: string): string {
  const named = /^-\s*Feature Name:\s*(.+)$/im.exec(text)?.[1] ?? "";
  const plain = plainText(named).replaceAll("`", "").trim();
  if (plain !== "" && plain.length <= 80 && !/fill|n\/a|http/i.test(plain)) return plain;
  return /\d{4}-([^/]+)\.md$/.exec(id)![1]!.replaceAll("-", " ");
}

function statusOf(text: string): { status?: string } {
  const found = /^status:\s*([A-Z][A-Za-z ]{2,20})\s*$/im.exec(text.slice(0, 2000));
  return found ? { status: found[1]!.trim() } : {};
}

const abstracts =
  /^(?:#+\s*)?(?:abstract|summary|simple summary|introduction|overview|motivation|rationale)\s*\n(?:[=\-~#]{3,}\s*\n)?/im;

function summaryOf(text: string): { summary?: string } {
  const found = abstracts.exec(text);
  return found ? summaryAfter(text, found.index + found[0].length) : {};
}

const longest = 260;

/** The first sentence of the first paragraph that is prose. */
function summaryAfter(text: string, from: number): { summary?: string } {
  for (const paragraph of text
    .slice(from, from + 4000)
    .split(/\n\s*\n/)
    .slice(0, 4)) {
    const prose = plainText(paragraph.replace(/^\[[^\]]*\]:.*$/gm, ""));
    if (prose.length < 30 || /^[#.:*\-+|<`{=[]/.test(prose)) continue;
    const sentence = firstSentence(prose);
    if (sentence.length >= 20 && sentence.length <= longest && /[.!?]$/.test(sentence))
      return { summary: sentence };
  }
  return {};
}

function firstSentence(prose: string): string {
  const end = /[.!?](?=\s+[A-Z`"(]|\s*$)/g;
  for (let found = end.exec(prose); found; found = end.exec(prose)) {
    const sentence = prose.slice(0, found.index + 1);
    if (!/\b(?:e\.g|i\.e|etc|vs|cf|Mr|Dr|St|No|al)\.$/.test(sentence)) return sentence;
  }
  return prose;
}

/** Text without marks of reStructuredText and Markdown, on one line. */
export function plainText(text: string): string {
  return text
    .replace(/:pep:`(\d+)`/g, "PEP $1")
    .replace(/:rfc:`(\d+)`/g, "RFC $1")
    .replace(/:[a-z:]+:`~?([^`<]+?)(?:\s*<[^>]*>)?`/g, "$1")
    .replace(/`([^`<]+?)\s*<[^>`]*>`__?/g, "$1")
    .replace(/`([^`]+)`__?(?=\W|$)/g, "`$1`")
    .replace(/\[([^\]]*)\]\([^)]*\)/g, "$1")
    .replace(/\[([^\]]*)\]\[[^\]]*\]/g, "$1")
    .replace(/ ?\[[#\w]+\]_/g, "")
    .replace(/``/g, "`")
    .replace(/\*\*|__/g, "")
    .replace(/\\\\/g, "\\")
    .replace(/\s+/g, " ")
    .trim();
}
