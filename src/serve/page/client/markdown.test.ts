import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { type Inline, parseInline, safeHref } from "./inline.ts";
import { type Block, continueMarkdown, parseMarkdown, type SourceBlock } from "./markdown.ts";

/** Inline content in a short notation, so that expectations can be read. */
function shown(parts: readonly Inline[]): string {
  const marks = { strong: "B", emphasis: "I", deleted: "D" } as const;
  return parts
    .map((part) => {
      if (part.type === "text") return part.text;
      if (part.type === "code") return `C{${part.text}}`;
      if (part.type === "break") return "/";
      const inner = shown(part.children);
      return part.type === "link" ? `L{${inner}|${part.href}}` : `${marks[part.type]}{${inner}}`;
    })
    .join("");
}

const inline = (text: string): string => shown(parseInline(text));

function outline(block: Block): unknown {
  switch (block.type) {
    case "paragraph":
      return shown(block.inline);
    case "heading":
      return `h${block.level} ${shown(block.inline)}`;
    case "code":
      return { code: block.text, in: block.language };
    case "quote":
      return { quote: block.blocks.map(outline) };
    case "list":
      return {
        [block.start === undefined ? "bullets" : `from ${block.start}`]: block.items.map(
          ({ checked, blocks }) => {
            const inner = blocks.map(outline);
            return checked === undefined ? inner : { checked, inner };
          },
        ),
      };
    case "table":
      return {
        align: block.alignments,
        head: block.head.map(shown),
        rows: block.rows.map((row) => row.map(shown)),
      };
    case "rule":
      return "rule";
  }
}

const blocks = (text: string): unknown[] => parseMarkdown(text).map(({ block }) => outline(block));

describe("inline", () => {
  test("emphasis, code, deletion", () => {
    for (const [text, expected] of [
      ["a *b* **c** ***d*** ~~e~~ `f`", "a I{b} B{c} I{B{d}} D{e} C{f}"],
      ["_a_ snake_case_name __b__ 2*3*4", "I{a} snake_case_name B{b} 2I{3}4"],
      ["**bold *and* more** end", "B{bold I{and} more} end"],
      ["a * b * c, *open, **open", "a * b * c, *open, **open"],
      ["*a **b* c**", "I{a I{I{b} c}}"],
      ["*a**b*", "I{a**b}"],
      ["**a*b**", "B{a*b}"],
      ["`` a ` b `` ` open", "C{a ` b} ` open"],
      ["\\*not\\* \\`x\\` \\q", "*not* `x` \\q"],
      ["one\ntwo  \nthree\\\nfour", "one/two/three/four"],
      ["~a~ ~~~b~~~", "~a~ ~~~b~~~"],
      ["&lt;b&gt; &amp;amp; &nope;", "<b> &amp; &nope;"],
    ] as const) {
      expect([text, inline(text)]).toEqual([text, expected]);
    }
  });

  test("links", () => {
    for (const [text, expected] of [
      ['[a *b*](https://x.org/p?q=1 "title") c', "L{a I{b}|https://x.org/p?q=1} c"],
      ["[a](<https://x.org/a b>)", "L{a|https://x.org/a%20b}"],
      ["[a](https://x.org/(b))", "L{a|https://x.org/(b)}"],
      ["![a picture](https://x.org/p.png)", "L{a picture|https://x.org/p.png}"],
      [
        "see https://x.org/a_(b). Or <https://y.org>!",
        "see L{https://x.org/a_(b)|https://x.org/a_(b)}. Or L{https://y.org|https://y.org/}!",
      ],
      ["(https://x.org/), xhttps://no.org", "(L{https://x.org/|https://x.org/}), xhttps://no.org"],
      ["[a] [b](", "[a] [b]("],
      ["[not [one](https://x.org)](https://y.org)", "not L{one|https://x.org/}"],
      ["[a](relative/path) [b](#c)", "a b"],
    ] as const) {
      expect([text, inline(text)]).toEqual([text, expected]);
    }
  });

  test("only pages and mailboxes are led to", () => {
    for (const bad of [
      "javascript:alert(1)",
      " javascript:alert(1)",
      "java\tscript:alert(1)",
      "JAVASCRIPT:alert(1)",
      "\u0001javascript:alert(1)",
      "data:text/html,<script>alert(1)</script>",
      "vbscript:x",
      "file:///etc/passwd",
      "blob:https://x.org/1",
      "//evil.org",
      "",
    ]) {
      expect([bad, safeHref(bad)]).toEqual([bad, undefined]);
      expect(parseInline(`[x](${bad})`).some(({ type }) => type === "link")).toBe(false);
    }
    expect(safeHref("mailto:a@b.org")).toBe("mailto:a@b.org");
    expect(safeHref("HTTPS://X.org")).toBe("https://x.org/");
  });
});

describe("blocks", () => {
  test("headings, rules, paragraphs, quotes", () => {
    expect(blocks("# One #\ntext\nmore\n\n## Two\n#not\n---\n\n***\nUnder\n===\n> a\nb\n> > c\n\nd")).toEqual(
      [
        "h1 One",
        "text/more",
        "h2 Two",
        "h2 #not",
        "rule",
        "h1 Under",
        { quote: ["a/b", { quote: ["c"] }] },
        "d",
      ],
    );
  });

  test("code, also before its fence is closed", () => {
    expect(blocks("a\n```ts title\nx *y*\n\n  z\n```\nb\n~~~\n```\n~~~\n````\n```\n")).toEqual([
      "a",
      { code: "x *y*\n\n  z", in: "ts" },
      "b",
      { code: "```", in: "" },
      { code: "```\n", in: "" },
    ]);
  });

  test("lists: nested, numbered, with tasks and code", () => {
    const text = [
      ...["1. one", "2. two", "   - in", "     more", "   - in too", "3. three", "", "   still three"],
      ...["- [x] done", "- [ ] open", "  ```", "  code", "  ```"],
    ];
    expect(blocks(text.join("\n"))).toEqual([
      { "from 1": [["one"], ["two", { bullets: [["in/more"], ["in too"]] }], ["three", "still three"]] },
      {
        bullets: [
          { checked: true, inner: ["done"] },
          { checked: false, inner: ["open", { code: "code", in: "" }] },
        ],
      },
    ]);
    expect(blocks("In 2019.\n7. is no list here\n\n7. but here")).toEqual([
      "In 2019./7. is no list here",
      { "from 7": [["but here"]] },
    ]);
    // two columns are enough for what belongs to a numbered item
    expect(blocks("1. a\n  - b\n2. c")).toEqual([{ "from 1": [["a", { bullets: [["b"]] }], ["c"]] }]);
  });

  test("tables", () => {
    expect(blocks("a | b\n:-: | -:\n1 | `x|y` | z\n2\nend")).toEqual([
      { align: ["center", "right"], head: ["a", "b"], rows: [["1", "C{x|y}"]] },
      "2/end",
    ]);
    expect(blocks("| a |\n|---|\n| b \\| c |\n\n| no |\n| - | - |")).toEqual([
      { align: [undefined], head: ["a"], rows: [["b | c"]] },
      "| no |/| - | - |",
    ]);
  });

  test("markup of HTML is text", () => {
    expect(blocks("<script>alert(1)</script>\n\n<img src=x onerror=alert(1)>")).toEqual([
      "<script>alert(1)</script>",
      "<img src=x onerror=alert(1)>",
    ]);
  });
});

describe("whatever comes", () => {
  const marks = fc.constantFrom(
    ...[
      "*",
      "**",
      "_",
      "~~",
      "`",
      "```",
      "\n",
      "\n\n",
      "  ",
      "- ",
      "1. ",
      "> ",
      "# ",
      "|",
      "|-|",
      "[",
      "](",
      ")",
      "![",
    ],
    ...[
      "<",
      ">",
      "\\",
      "&amp;",
      "https://x.org",
      "a",
      "word ",
      "\t",
      "---",
      "===",
      "[x] ",
      "\r\n",
      "\u2028",
      "é",
    ],
  );

  test("text is never lost or made, and parsing does not fail", () => {
    const letters = (text: string): string => text.replace(/[^a-zé]/g, "");
    const words = (node: unknown): string =>
      typeof node === "object" && node !== null
        ? Object.entries(node)
            .map(([key, value]) =>
              key === "href" || key === "type" || key === "language" ? "" : words(value),
            )
            .join("")
        : typeof node === "string"
          ? node
          : "";
    fc.assert(
      fc.property(fc.array(marks, { maxLength: 60, size: "max" }), (pieces) => {
        // addresses, info strings and what a table has beyond its columns are not shown
        const text = pieces.filter((piece) => !/https|`|~|\||amp|\]\(|\[x/.test(piece)).join("");
        expect(letters(words(parseMarkdown(text).map(({ block }) => block)))).toBe(letters(text));
        parseMarkdown(pieces.join(""));
      }),
      { numRuns: 400, seed: 4 },
    );
  });

  test("read bit by bit it is what it is at once", () => {
    fc.assert(
      fc.property(fc.array(marks, { maxLength: 50, size: "max" }), (pieces) => {
        let text = "";
        let blocks: readonly SourceBlock[] = [];
        for (const piece of pieces) {
          for (const letter of piece) {
            text += letter;
            blocks = continueMarkdown(blocks, text);
          }
          expect(blocks).toEqual(parseMarkdown(text));
        }
      }),
      { numRuns: 100, seed: 4 },
    );
  });

  test("the source of a block decides what it is", () => {
    fc.assert(
      fc.property(fc.array(marks, { maxLength: 40, size: "max" }), (pieces) => {
        for (const { source, block } of parseMarkdown(pieces.join(""))) {
          expect(parseMarkdown(source)[0]?.block).toEqual(block);
        }
      }),
      { numRuns: 100, seed: 4 },
    );
  });

  test("long and deep texts stay quick and shallow", () => {
    const times = 20_000;
    for (const piece of [
      "*a ",
      "**a** ",
      "[",
      "[a](",
      "![a]",
      "> ",
      "- ",
      "`",
      "``` ",
      "|a",
      "~~a",
      "_a_",
      "&",
      "<https://",
      "1. ",
      "*_",
      "(",
      "https://a.b)",
      "\n|",
      "#",
    ]) {
      const text = piece.repeat(times);
      const start = performance.now();
      const parsed = parseMarkdown(text);
      const tookMs = performance.now() - start;
      expect([piece, tookMs < 2000]).toEqual([piece, true]);
      // deep trees would overflow the stack of what draws them
      expect([piece, JSON.stringify(parsed).length > 0]).toEqual([piece, true]);
    }
    expect(() =>
      JSON.stringify(parseMarkdown("*a **b ".repeat(2000) + "c** d* ".repeat(2000))),
    ).not.toThrow();
  });
});
