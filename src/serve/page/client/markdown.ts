/**
 * Markdown as models write it, to a tree without markup: what draws the tree makes elements and text of it, so nothing an
 * answer contains can become HTML. Every input is valid; what fits no rule is text. Work is linear in the input but for
 * bounded look-ahead, since the text is read again with every piece of a streamed answer.
 */
import { type Inline, parseInline } from "./inline.ts";

export type Alignment = "left" | "center" | "right" | undefined;

export type ListItem = {
  /** Undefined unless the item begins with `[ ]` or `[x]`. */
  readonly checked: boolean | undefined;
  readonly blocks: readonly Block[];
};

export type Block =
  | { readonly type: "paragraph"; readonly inline: readonly Inline[] }
  | { readonly type: "heading"; readonly level: number; readonly inline: readonly Inline[] }
  | { readonly type: "code"; readonly language: string; readonly text: string }
  | { readonly type: "quote"; readonly blocks: readonly Block[] }
  | {
      readonly type: "list";
      /** Undefined for bullets. */
      readonly start: number | undefined;
      readonly items: readonly ListItem[];
    }
  | {
      readonly type: "table";
      readonly alignments: readonly Alignment[];
      readonly head: readonly (readonly Inline[])[];
      readonly rows: readonly (readonly (readonly Inline[])[])[];
    }
  | { readonly type: "rule" };

/** A block with the text it was made of, and where that begins, in UTF-16 units: equal text means an equal block. */
export type SourceBlock = { readonly source: string; readonly at: number; readonly block: Block };

/** Lists and quotes inside each other beyond this are text. */
const maxDepth = 8;
const maxColumns = 64;

export function parseMarkdown(text: string): SourceBlock[] {
  return readBlocks(withLineFeeds(text).split("\n"), 0);
}

/**
 * The same for a text that has grown: `before` are the blocks of its beginning. A block ends where the first line of the
 * next one says so, and only the last line of a text may still change: so all blocks but the last two stay.
 */
export function continueMarkdown(before: readonly SourceBlock[], text: string): SourceBlock[] {
  const kept = before.slice(0, -2);
  const from = before[kept.length]?.at ?? 0;
  const rest = readBlocks(withLineFeeds(text).slice(from).split("\n"), 0);
  return [...kept, ...rest.map((block) => ({ ...block, at: block.at + from }))];
}

function withLineFeeds(text: string): string {
  return text.includes("\r") ? text.replace(/\r\n?/g, "\n") : text;
}

type Reading = { readonly block: Block; readonly end: number };

function readBlocks(lines: readonly string[], depth: number): SourceBlock[] {
  const blocks: SourceBlock[] = [];
  let at = 0;
  let place = 0;
  while (at < lines.length) {
    if (isBlank(lines[at])) {
      place += lines[at]!.length + 1;
      at += 1;
      continue;
    }
    const { block, end } = readBlock(lines, at, depth);
    const source = lines.slice(at, end).join("\n");
    blocks.push({ source, at: place, block });
    place += source.length + 1;
    at = end;
  }
  return blocks;
}

function readBlock(lines: readonly string[], at: number, depth: number): Reading {
  const line = lines[at] ?? "";
  const fence = fenceOf(line);
  if (fence) return readCode(lines, at, fence);
  const heading = headingOf(line);
  if (heading) return { block: { type: "heading", ...heading }, end: at + 1 };
  if (isRule(line)) return { block: { type: "rule" }, end: at + 1 };
  if (depth < maxDepth) {
    if (isQuote(line)) return readQuote(lines, at, depth);
    const marker = markerOf(line);
    if (marker) return readList(lines, at, marker, depth);
  }
  return readTable(lines, at) ?? readParagraph(lines, at, depth);
}

function isBlank(line: string | undefined): boolean {
  return line === undefined || line.trim() === "";
}

function indentOf(line: string): number {
  let width = 0;
  for (const letter of line) {
    if (letter === " ") width += 1;
    else if (letter === "\t") width += 4;
    else break;
  }
  return width;
}

/** Takes up to `width` columns of leading white space away. */
function dedent(line: string, width: number): string {
  let columns = 0;
  let at = 0;
  while (at < line.length && columns < width) {
    if (line[at] === " ") columns += 1;
    else if (line[at] === "\t") columns += 4;
    else break;
    at += 1;
  }
  return line.slice(at);
}

type Fence = {
  readonly mark: string;
  readonly length: number;
  readonly indent: number;
  readonly language: string;
};

function fenceOf(line: string): Fence | undefined {
  const trimmed = line.trimStart();
  const mark = trimmed[0];
  if (mark !== "`" && mark !== "~") return undefined;
  let length = 0;
  while (trimmed[length] === mark) length += 1;
  const info = trimmed.slice(length).trim();
  if (length < 3 || (mark === "`" && info.includes("`"))) return undefined;
  return { mark, length, indent: indentOf(line), language: info.split(/\s/, 1)[0] ?? "" };
}

function readCode(lines: readonly string[], at: number, fence: Fence): Reading {
  const text: string[] = [];
  let end = at + 1;
  for (; end < lines.length; end++) {
    const line = lines[end] ?? "";
    const closing = fenceOf(line);
    if (closing?.mark === fence.mark && closing.length >= fence.length && closing.language === "") {
      end += 1;
      break;
    }
    text.push(dedent(line, fence.indent));
  }
  return { block: { type: "code", language: fence.language, text: text.join("\n") }, end };
}

function headingOf(line: string): { readonly level: number; readonly inline: readonly Inline[] } | undefined {
  const trimmed = line.trim();
  let level = 0;
  while (trimmed[level] === "#") level += 1;
  if (level === 0 || level > 6) return undefined;
  const rest = trimmed.slice(level);
  if (rest !== "" && !/^\s/.test(rest)) return undefined;
  // closing marks count only after a space
  const bare = rest.trimEnd();
  let end = bare.length;
  while (bare[end - 1] === "#") end -= 1;
  const text = end < bare.length && /^\s?$/.test(bare[end - 1] ?? "") ? bare.slice(0, end) : bare;
  return { level, inline: parseInline(text.trim()) };
}

function isRule(line: string): boolean {
  const marks = line.replace(/\s/g, "");
  const [mark] = marks;
  return (
    marks.length >= 3 &&
    (mark === "-" || mark === "*" || mark === "_") &&
    marks === mark.repeat(marks.length) &&
    indentOf(line) < 4
  );
}

function isQuote(line: string): boolean {
  return line.trimStart().startsWith(">") && indentOf(line) < 4;
}

function readQuote(lines: readonly string[], at: number, depth: number): Reading {
  const inner: string[] = [];
  let end = at;
  for (; end < lines.length; end++) {
    const line = lines[end] ?? "";
    if (isQuote(line)) inner.push(line.trimStart().slice(1).replace(/^ /, ""));
    // a quoted paragraph may go on without its mark
    else if (!isBlank(line) && !isBlank(inner.at(-1)) && !beginsBlock(line)) inner.push(line);
    else break;
  }
  return { block: { type: "quote", blocks: readBlocks(inner, depth + 1).map(({ block }) => block) }, end };
}

type Marker = {
  readonly indent: number;
  /** Columns from the line's begin to the item's text. */
  readonly content: number;
  /** `-`, `*`, `+`, `.` or `)`: another one begins another list. */
  readonly kind: string;
  readonly start: number | undefined;
  readonly text: string;
};

function markerOf(line: string): Marker | undefined {
  const match = /^[ \t]*(?:([-*+])|(\d{1,9})([.)]))(?:[ \t]+|$)/.exec(line);
  if (!match || isRule(line)) return undefined;
  const indent = indentOf(line);
  const mark = match[1] ?? `${match[2]}${match[3]}`;
  const gap = match[0].trimStart().length - mark.length;
  const width = mark.length + (gap >= 1 && gap <= 4 ? gap : 1);
  return {
    indent,
    content: indent + width,
    kind: match[1] ?? match[3] ?? "",
    start: match[2] === undefined ? undefined : Number(match[2]),
    text: line.trimStart().slice(width),
  };
}

function readList(lines: readonly string[], at: number, first: Marker, depth: number): Reading {
  const items: ListItem[] = [];
  let marker: Marker | undefined = first;
  let end = at;
  while (marker) {
    const inner = [marker.text];
    for (end += 1; end < lines.length; end++) {
      const line = lines[end] ?? "";
      if (isBlank(line)) {
        inner.push("");
        continue;
      }
      const indent = indentOf(line);
      // models indent what belongs to "1. " by two columns as often as by three
      if (indent >= Math.min(marker.content, first.indent + 2)) inner.push(dedent(line, marker.content));
      else if (!isBlank(inner.at(-1)) && !markerOf(line) && !beginsBlock(line)) inner.push(line.trimStart());
      else break;
    }
    items.push(itemOf(inner, depth));
    const next: Marker | undefined = markerOf(lines[end] ?? "");
    marker = next?.kind === first.kind && next.indent <= first.indent + 1 ? next : undefined;
  }
  return { block: { type: "list", start: first.start, items }, end };
}

function itemOf(lines: readonly string[], depth: number): ListItem {
  const box = /^\[([ xX])\]\s+/.exec(lines[0] ?? "");
  const text = box ? [(lines[0] ?? "").slice(box[0].length), ...lines.slice(1)] : lines;
  return {
    checked: box ? box[1] !== " " : undefined,
    blocks: readBlocks(text, depth + 1).map(({ block }) => block),
  };
}

/** Whether a line ends the paragraph before it. */
function beginsBlock(line: string): boolean {
  if (fenceOf(line) || headingOf(line) || isRule(line) || isQuote(line)) return true;
  const marker = markerOf(line);
  // a number at a line's begin is mostly a number, unless it is the first one
  return marker !== undefined && marker.text !== "" && (marker.start === undefined || marker.start === 1);
}

function readTable(lines: readonly string[], at: number): Reading | undefined {
  const [head, under] = [lines[at] ?? "", lines[at + 1] ?? ""];
  if (!head.includes("|") || !/^[\s|:-]+$/.test(under) || !under.includes("-")) return undefined;
  const names = cellsOf(head);
  const marks = cellsOf(under);
  if (
    names.length > maxColumns ||
    names.length !== marks.length ||
    !marks.every((mark) => /^:?-+:?$/.test(mark))
  )
    return undefined;
  const alignments = marks.map((mark): Alignment => {
    if (!mark.endsWith(":")) return mark.startsWith(":") ? "left" : undefined;
    return mark.startsWith(":") ? "center" : "right";
  });
  const rows: (readonly Inline[])[][] = [];
  let end = at + 2;
  for (; end < lines.length && !isBlank(lines[end]) && (lines[end] ?? "").includes("|"); end++) {
    const cells = cellsOf(lines[end] ?? "");
    rows.push(names.map((_, i) => parseInline(cells[i] ?? "")));
  }
  const block = { type: "table", alignments, head: names.map((name) => parseInline(name)), rows } as const;
  return { block, end };
}

/** Cells of a row; a bar in code or after a backslash is no border. */
function cellsOf(row: string): string[] {
  const cells: string[] = [];
  let cell = "";
  let code = false;
  const text = row.trim();
  for (let i = 0; i < text.length; i++) {
    const letter = text[i]!;
    if (letter === "`") code = !code;
    if (letter === "\\" && text[i + 1] === "|") {
      cell += "|";
      i += 1;
    } else if (letter === "|" && !code) {
      cells.push(cell.trim());
      cell = "";
    } else cell += letter;
  }
  if (cell.trim() !== "" || !text.endsWith("|")) cells.push(cell.trim());
  return text.startsWith("|") ? cells.slice(1) : cells;
}

function readParagraph(lines: readonly string[], at: number, depth: number): Reading {
  const text = [(lines[at] ?? "").trimStart()];
  let end = at + 1;
  for (; end < lines.length; end++) {
    const line = lines[end] ?? "";
    const underline = /^ {0,3}(=+|-+)\s*$/.exec(line)?.[1];
    if (underline) {
      const level = underline.startsWith("=") ? 1 : 2;
      return { block: { type: "heading", level, inline: parseInline(text.join("\n").trim()) }, end: end + 1 };
    }
    if (isBlank(line) || (depth < maxDepth && beginsBlock(line)) || readTable(lines, end)) break;
    text.push(line.trimStart());
  }
  return { block: { type: "paragraph", inline: parseInline(text.join("\n").trimEnd()) }, end };
}
