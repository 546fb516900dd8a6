/** Text inside a block: emphasis, code, links. */

export type Inline =
  | { readonly type: "text"; readonly text: string }
  | { readonly type: "code"; readonly text: string }
  | { readonly type: "strong" | "emphasis" | "deleted"; readonly children: readonly Inline[] }
  | { readonly type: "link"; readonly href: string; readonly children: readonly Inline[] }
  | { readonly type: "break" };

/** A run of `*`, `_` or `~` that may open or close emphasis; what is left of it becomes text. */
type Run = {
  readonly type: "run";
  readonly mark: string;
  /** Marks not used yet, and how many there were. */
  count: number;
  readonly length: number;
  readonly opens: boolean;
  readonly closes: boolean;
};
type Bracket = { readonly type: "bracket"; readonly image: boolean };
type Part = Inline | Run | Bracket;

const punctuation = /[!-/:-@[-`{-~]/;
/** Longest destination of a link, UTF-16 units; also what bounds the search for its end. */
const maxDestination = 1024;
/** Emphasis inside emphasis beyond this is dropped and its text kept. */
const maxNesting = 12;

export function parseInline(text: string): Inline[] {
  const parts: Part[] = [];
  const brackets: number[] = [];
  /** Lengths of backtick runs that are known to have no partner further on. */
  const unmatched = new Set<number>();
  let plain = "";
  let at = 0;
  const flush = (): void => {
    if (plain !== "") parts.push({ type: "text", text: plain });
    plain = "";
  };
  const add = (part: Part): void => {
    flush();
    parts.push(part);
  };
  while (at < text.length) {
    const letter = text[at]!;
    const next = text[at + 1] ?? "";
    if (letter === "\\" && punctuation.test(next)) {
      plain += next;
      at += 2;
    } else if (letter === "\n" || (letter === "\\" && next === "\n")) {
      plain = plain.trimEnd();
      add({ type: "break" });
      at += letter === "\n" ? 1 : 2;
    } else if (letter === "`") {
      const length = runLength(text, at);
      const code = unmatched.has(length) ? undefined : codeAt(text, at, length);
      if (code) {
        add({ type: "code", text: code.text });
        at = code.end;
      } else {
        unmatched.add(length);
        plain += "`".repeat(length);
        at += length;
      }
    } else if (letter === "*" || letter === "_" || letter === "~") {
      const run = runAt(text, at);
      at += run.count;
      if (run.opens || run.closes) add(run);
      else plain += run.mark.repeat(run.count);
    } else if (letter === "[" || (letter === "!" && next === "[")) {
      add({ type: "bracket", image: letter === "!" });
      brackets.push(parts.length - 1);
      at += letter === "!" ? 2 : 1;
    } else if (letter === "]" && brackets.length > 0) {
      flush();
      const opener = brackets.pop()!;
      const link = next === "(" ? destinationAt(text, at + 2) : undefined;
      if (link) {
        const children = emphasised(parts.splice(opener).slice(1));
        const href = safeHref(link.destination);
        if (href === undefined || hasLink(children)) for (const child of children) parts.push(child);
        else parts.push({ type: "link", href, children });
        at = link.end;
      } else {
        plain += "]";
        at += 1;
      }
    } else {
      const link = addressAt(text, at);
      if (link) {
        add({ type: "link", href: link.href, children: [{ type: "text", text: link.text }] });
        at = link.end;
      } else {
        const entity = letter === "&" ? entityAt(text, at) : undefined;
        plain += entity?.text ?? letter;
        at += entity?.length ?? 1;
      }
    }
  }
  flush();
  return emphasised(parts);
}

function runLength(text: string, at: number): number {
  let end = at;
  while (text[end] === text[at]) end += 1;
  return end - at;
}

function codeAt(
  text: string,
  at: number,
  length: number,
): { readonly text: string; readonly end: number } | undefined {
  let from = at + length;
  for (;;) {
    const found = text.indexOf("`", from);
    if (found < 0) return undefined;
    const run = runLength(text, found);
    if (run === length) {
      const inner = text.slice(at + length, found).replace(/\n/g, " ");
      const padded = inner.startsWith(" ") && inner.endsWith(" ") && inner.trim() !== "";
      return { text: padded ? inner.slice(1, -1) : inner, end: found + run };
    }
    from = found + run;
  }
}

/** CommonMark's flanking rules. */
function runAt(text: string, at: number): Run {
  const mark = text[at]!;
  const count = runLength(text, at);
  const before = text[at - 1] ?? " ";
  const after = text[at + count] ?? " ";
  const isSpace = (letter: string): boolean => /\s/.test(letter);
  const isMark = (letter: string): boolean => /[\p{P}\p{S}]/u.test(letter);
  const left = !isSpace(after) && (!isMark(after) || isSpace(before) || isMark(before));
  const right = !isSpace(before) && (!isMark(before) || isSpace(after) || isMark(after));
  if (mark === "~") {
    const two = count === 2;
    return { type: "run", mark, count, length: count, opens: two && left, closes: two && right };
  }
  const inWord = mark === "_" && left && right;
  return {
    type: "run",
    mark,
    count,
    length: count,
    opens: left && (!inWord || isMark(before)),
    closes: right && (!inWord || isMark(after)),
  };
}

/** Pairs runs into emphasis; runs and brackets without a partner become text. */
function emphasised(parts: readonly Part[]): Inline[] {
  const out: Part[] = [];
  /** Places in `out` of runs that may still open, for each mark. */
  const openers = new Map<string, number[]>();
  for (const part of parts) {
    if (part.type !== "run") {
      out.push(part);
      continue;
    }
    const run = { ...part };
    const places = openers.get(run.mark) ?? [];
    openers.set(run.mark, places);
    while (run.closes && run.count > 0) {
      const place = openerFor(run, places, out);
      if (place === undefined) break;
      const opener = out[place] as Run;
      const width = opener.count >= 2 && run.count >= 2 ? 2 : 1;
      if (run.mark === "~" && width === 1) break;
      const children = textOf(out.splice(place + 1));
      // what opened inside of the pair stays text
      for (const others of openers.values()) while ((others.at(-1) ?? -1) > place) others.pop();
      opener.count -= width;
      run.count -= width;
      if (opener.count === 0) {
        out.splice(place, 1);
        places.pop();
      }
      const type = run.mark === "~" ? "deleted" : width === 2 ? "strong" : "emphasis";
      if (children.some((child) => nesting(child) >= maxNesting))
        for (const child of children) out.push(child);
      else out.push({ type, children });
    }
    if (run.count === 0) continue;
    out.push(run);
    if (run.opens) places.push(out.length - 1);
  }
  return textOf(out);
}

/** How many runs are looked at for a partner. */
const lookBack = 24;

/**
 * The place of the nearest run that the closing one may pair with. CommonMark's rule of three: a run inside a word pairs
 * with one whose length adds up to a multiple of three only where both lengths are one.
 */
function openerFor(run: Run, places: readonly number[], out: readonly Part[]): number | undefined {
  for (let i = places.length - 1; i >= Math.max(0, places.length - lookBack); i--) {
    const opener = out[places[i]!] as Run;
    const inWord = opener.closes || run.opens;
    const three = (opener.length + run.length) % 3 === 0 && (opener.length % 3 !== 0 || run.length % 3 !== 0);
    if (!(inWord && three)) return places[i];
  }
  return undefined;
}

function textOf(parts: readonly Part[]): Inline[] {
  const out: Inline[] = [];
  for (const part of parts) {
    const plain =
      part.type === "run"
        ? part.mark.repeat(part.count)
        : part.type === "bracket"
          ? part.image
            ? "!["
            : "["
          : part.type === "text"
            ? part.text
            : undefined;
    if (plain === undefined) {
      out.push(part as Inline);
      continue;
    }
    const last = out.at(-1);
    if (last?.type === "text") out[out.length - 1] = { type: "text", text: last.text + plain };
    else out.push({ type: "text", text: plain });
  }
  return out;
}

const depths = new WeakMap<Inline, number>();

/** How many nodes lie inside each other, this one included; asked from the inside outwards, so it never goes deep. */
function nesting(part: Inline): number {
  if (!("children" in part)) return 0;
  const known = depths.get(part);
  if (known !== undefined) return known;
  const depth = 1 + part.children.reduce((most, child) => Math.max(most, nesting(child)), 0);
  depths.set(part, depth);
  return depth;
}

function hasLink(parts: readonly Inline[]): boolean {
  return parts.some((part) => part.type === "link" || ("children" in part && hasLink(part.children)));
}

/** `target "title")` or `<target>)`; the title is dropped. */
function destinationAt(
  text: string,
  at: number,
): { readonly destination: string; readonly end: number } | undefined {
  const limit = Math.min(text.length, at + maxDestination);
  let depth = 0;
  for (let i = at; i < limit; i++) {
    const letter = text[i];
    if (letter === "\\") i += 1;
    else if (letter === "\n") return undefined;
    else if (letter === "(") depth += 1;
    else if (letter === ")") {
      if (depth === 0) {
        const inner = text.slice(at, i).trim();
        const target = /^<([^<>]*)>/.exec(inner)?.[1] ?? inner.split(/\s/, 1)[0] ?? "";
        return { destination: target, end: i + 1 };
      }
      depth -= 1;
    }
  }
  return undefined;
}

/** The address in full when it leads to a page or a mailbox; undefined for scripts, data and everything else. */
export function safeHref(destination: string): string | undefined {
  // URL.parse would not throw, but browsers of 2023 lack it
  let url: URL;
  try {
    url = new URL(destination);
  } catch {
    return undefined;
  }
  return ["http:", "https:", "mailto:"].includes(url.protocol) ? url.href : undefined;
}

/** An address that stands in the text, or between angle brackets. */
function addressAt(text: string, at: number) {
  const bracketed = text[at] === "<";
  const from = bracketed ? at + 1 : at;
  if (text[from] !== "h" || (!bracketed && /\w/.test(text[at - 1] ?? ""))) return undefined;
  const match = /^https?:\/\/[^\s<>"`]{1,2000}/.exec(text.slice(from, from + maxDestination));
  if (!match) return undefined;
  let shown = match[0];
  if (bracketed) {
    if (text[from + shown.length] !== ">") return undefined;
  } else shown = withoutEnding(shown);
  const href = safeHref(shown);
  if (href === undefined) return undefined;
  return { href, text: shown, end: from + shown.length + (bracketed ? 1 : 0) };
}

/** Punctuation at the end belongs to the sentence, and so does a bracket that was not opened inside. */
function withoutEnding(address: string): string {
  let shown = address;
  let surplus = shown.split(")").length - shown.split("(").length;
  for (;;) {
    const last = shown.at(-1) ?? "";
    if (last === ")" && surplus > 0) surplus -= 1;
    else if (!/[.,;:!?'*_~\]]/.test(last)) return shown;
    shown = shown.slice(0, -1);
  }
}

const entities: Readonly<Record<string, string>> = {
  ...{
    "&amp;": "&",
    "&lt;": "<",
    "&gt;": ">",
    "&quot;": '"',
    "&#39;": "'",
    "&apos;": "'",
    "&nbsp;": "\u00a0",
  },
};

function entityAt(text: string, at: number): { readonly text: string; readonly length: number } | undefined {
  const name = /^&[#\w]{1,5};/.exec(text.slice(at, at + 8))?.[0] ?? "";
  const value = entities[name];
  return value === undefined ? undefined : { text: value, length: name.length };
}
