import { button, copy, element } from "./elements.ts";
import type { Inline } from "./inline.ts";
import { type Block, continueMarkdown, parseMarkdown, type SourceBlock } from "./markdown.ts";

type Shown = SourceBlock & { readonly node: HTMLElement };

/** Markdown on the page. As text grows, blocks that are done stay as they are: selection and scroll position survive. */
export class MarkdownView {
  private readonly into: HTMLElement;
  private shown: Shown[] = [];
  private text = "";

  constructor(into: HTMLElement) {
    this.into = into;
  }

  update(text: string): void {
    if (text === this.text) return;
    const blocks = text.startsWith(this.text) ? continueMarkdown(this.shown, text) : parseMarkdown(text);
    this.text = text;
    let same = 0;
    while (same < blocks.length && this.shown[same]?.source === blocks[same]!.source) same += 1;
    const [grown, before] = [blocks[same], this.shown[same]];
    if (grown && before && grow(before, grown)) {
      this.shown[same] = { ...grown, node: before.node };
      same += 1;
    }
    for (const { node } of this.shown.splice(same)) node.remove();
    for (const block of blocks.slice(same)) {
      const node = blockNode(block.block);
      this.shown.push({ ...block, node });
      this.into.append(node);
    }
  }
}

/** Adds to a block of code that is still being written instead of drawing it again. */
function grow(before: Shown, now: SourceBlock): boolean {
  if (before.block.type !== "code" || now.block.type !== "code") return false;
  if (before.block.language !== now.block.language || !now.block.text.startsWith(before.block.text))
    return false;
  before.node.querySelector("code")?.append(now.block.text.slice(before.block.text.length));
  return true;
}

/** A text runs the way of its first letters; what holds texts with a way of their own cannot be asked. */
const ownWay = { dir: "auto" } as const;

function blockNode(block: Block): HTMLElement {
  switch (block.type) {
    case "paragraph":
      return element("p", ownWay, ...inlineNodes(block.inline));
    case "heading": {
      // the page's own headings come first in the outline
      const name = (["h3", "h4", "h5", "h6", "h6", "h6"] as const)[block.level - 1] ?? "h6";
      return element(name, { ...ownWay, class: `level-${block.level}` }, ...inlineNodes(block.inline));
    }
    case "code":
      return codeNode(block.language, block.text);
    case "quote":
      return element("blockquote", {}, ...block.blocks.map(blockNode));
    case "list":
      return listNode(block);
    case "table":
      return tableNode(block);
    case "rule":
      return element("hr");
  }
}

function codeNode(language: string, text: string): HTMLElement {
  const code = element("code", {}, text);
  const copied = button("Copy code", "copy", () => {
    void copy(code.textContent ?? "").then((done) => confirm(copied, done));
  });
  return element(
    "figure",
    { class: "code", dir: "ltr" },
    element("figcaption", {}, element("span", {}, language || "text"), copied),
    // scrolls sideways, so the keyboard must reach it
    element("pre", { tabindex: "0", role: "region", "aria-label": `Code, ${language || "text"}` }, code),
  );
}

/** Shows for a moment that something was copied, or that it could not be. */
export function confirm(on: HTMLElement, done: boolean): void {
  on.dataset.said = done ? "Copied" : "Not copied";
  setTimeout(() => delete on.dataset.said, 1600);
}

function listNode({ start, items }: Extract<Block, { type: "list" }>): HTMLElement {
  const children = items.map(({ checked, blocks }) => {
    const box =
      checked === undefined
        ? undefined
        : element("input", {
            ...{ type: "checkbox", disabled: true, checked },
            "aria-label": checked ? "done" : "to do",
          });
    const [first, ...rest] = blocks;
    // an item that is one paragraph stands without the space that paragraphs have
    const nodes =
      first?.type === "paragraph"
        ? [element("span", {}, ...inlineNodes(first.inline)), ...rest.map(blockNode)]
        : blocks.map(blockNode);
    return element("li", checked === undefined ? {} : { class: "task" }, box, ...nodes);
  });
  return start === undefined
    ? element("ul", ownWay, ...children)
    : element("ol", { ...ownWay, start: start === 1 ? undefined : String(start) }, ...children);
}

function tableNode({ alignments, head, rows }: Extract<Block, { type: "table" }>): HTMLElement {
  const cell = (name: "th" | "td", inline: readonly Inline[], column: number) => {
    const align = alignments[column];
    const attributes = { class: align && `align-${align}`, scope: name === "th" ? "col" : undefined };
    return element(name, attributes, ...inlineNodes(inline));
  };
  const row = (name: "th" | "td", cells: readonly (readonly Inline[])[]) =>
    element("tr", {}, ...cells.map((inline, column) => cell(name, inline, column)));
  const table = element(
    "table",
    ownWay,
    element("thead", {}, row("th", head)),
    element("tbody", {}, ...rows.map((cells) => row("td", cells))),
  );
  return element("div", { class: "table", tabindex: "0", role: "region", "aria-label": "Table" }, table);
}

const names = { strong: "strong", emphasis: "em", deleted: "del" } as const;

function inlineNodes(parts: readonly Inline[]): Node[] {
  return parts.map((part) => {
    switch (part.type) {
      case "text":
        return document.createTextNode(part.text);
      case "code":
        return element("code", {}, part.text);
      case "break":
        return element("br");
      case "link":
        return element(
          "a",
          { href: part.href, target: "_blank", rel: "noopener noreferrer" },
          ...inlineNodes(part.children),
        );
      default:
        return element(names[part.type], {}, ...inlineNodes(part.children));
    }
  });
}
