import { type CharSet, contains } from "./chars.ts";
import { type BareProgram, checkProgram } from "./check.ts";
import type { Expr, Grammar } from "./expr.ts";
import { edge, type Program, type ProgramRule } from "./program.ts";
import { refused } from "./refusal.ts";

/** Beyond these a grammar is refused. */
export const limits = {
  edges: 250_000,
  rules: 50_000,
  /** Bytes of all listed texts together. */
  wordBytes: 2 ** 20,
} as const;

/** Turns a grammar into nodes and edges; throws `unsupported` where it is too large, endless or matches nothing. */
export function compileGrammar(grammar: Grammar): Program {
  const program = new Compiler(grammar).compile();
  return { ...program, needs: checkProgram(program) };
}

class Compiler {
  private readonly grammar: Grammar;
  private nodes = 0;
  private readonly edges: number[] = [];
  private readonly rules: (ProgramRule | undefined)[] = [];
  private readonly numbers = new Map<string, number>();
  private readonly loops = new Map<string, number>();
  private readonly pending: string[] = [];
  private wordBytes = 0;

  constructor(grammar: Grammar) {
    this.grammar = grammar;
  }

  compile(): BareProgram {
    const root = this.addRule();
    this.define(root, this.grammar.root);
    for (let name = this.pending.pop(); name !== undefined; name = this.pending.pop()) {
      const expr = this.grammar.rules.get(name);
      if (!expr)
        throw refused("grammar", "rules that are all defined", `none called ${JSON.stringify(name)}`);
      this.define(this.numbers.get(name)!, expr);
    }
    return { nodes: this.nodes, edges: this.edges, rules: this.rules as ProgramRule[], root };
  }

  private addRule(rule?: ProgramRule): number {
    if (this.rules.length >= limits.rules) throw tooLarge(`${limits.rules} rules`);
    return this.rules.push(rule) - 1;
  }

  private define(number: number, expr: Expr): void {
    const start = this.node();
    const end = this.node();
    this.emit(expr, start, end);
    this.rules[number] = { kind: "nodes", start, end };
  }

  private node(): number {
    return this.nodes++;
  }

  private edge(from: number, to: number, kind: number, a = 0, b = 0): void {
    if (this.edges.length >= limits.edges * 5) throw tooLarge(`${limits.edges} steps`);
    this.edges.push(from, to, kind, a, b);
  }

  /** Edges from one node to another for all texts of an expression; none of them leads to `from` or away from `to`. */
  private emit(expr: Expr, from: number, to: number): void {
    switch (expr.kind) {
      case "text":
        this.emitText(expr.text, from, to);
        return;
      case "chars":
        this.emitChars(expr.set, from, to);
        return;
      case "seq": {
        if (expr.of.length === 0) this.edge(from, to, edge.empty);
        let at = from;
        expr.of.forEach((part, i) => {
          const next = i === expr.of.length - 1 ? to : this.node();
          this.emit(part, at, next);
          at = next;
        });
        return;
      }
      case "choice":
        for (const one of expr.of) this.emit(one, from, to);
        return;
      case "repeat":
        this.emitRepeat(expr, from, to);
        return;
      case "rule":
        this.edge(from, to, edge.rule, this.numberOf(expr.name));
        return;
      case "token":
        this.edge(from, to, edge.token, expr.id);
        return;
      case "words":
        this.emitWords(expr.of, from, to);
        return;
      case "list":
        this.emitList(expr, from, to);
    }
  }

  /** Two nodes for each place in the list: nothing was there yet, or something, behind which a separator comes. */
  private emitList(
    { items, more, separator }: Extract<Expr, { kind: "list" }>,
    from: number,
    to: number,
  ): void {
    let empty: number | undefined = from;
    let some: number | undefined;
    const enter = (of: Expr, next: number): void => {
      const item = this.node();
      if (empty !== undefined) this.edge(empty, item, edge.empty);
      if (some !== undefined) this.emit(separator, some, item);
      this.emit(of, item, next);
    };
    for (const { of, optional } of items) {
      const next = this.node();
      enter(of, next);
      const skipped: number | undefined = optional && empty !== undefined ? this.node() : undefined;
      if (skipped !== undefined) this.edge(empty!, skipped, edge.empty);
      if (optional && some !== undefined) this.edge(some, next, edge.empty);
      empty = skipped;
      some = next;
    }
    if (more) {
      const last = this.node();
      if (some !== undefined) this.edge(some, last, edge.empty);
      some = last;
      enter(more, last);
    }
    if (empty !== undefined) this.edge(empty, to, edge.empty);
    if (some !== undefined) this.edge(some, to, edge.empty);
  }

  private emitText(value: string, from: number, to: number): void {
    const bytes = Buffer.from(value, "utf8");
    if (bytes.length === 0) this.edge(from, to, edge.empty);
    let at = from;
    bytes.forEach((byte, i) => {
      const next = i === bytes.length - 1 ? to : this.node();
      this.edge(at, next, edge.bytes, byte, byte);
      at = next;
    });
  }

  private emitChars(set: CharSet, from: number, to: number): void {
    const { ranges, encoding } = set;
    if (encoding !== "utf8" || ranges.some((point) => point > 0x7f)) {
      this.edge(from, to, edge.rule, this.loop(set, 1, 1));
      return;
    }
    for (let i = 0; i < ranges.length; i += 2) this.edge(from, to, edge.bytes, ranges[i]!, ranges[i + 1]!);
  }

  private emitRepeat({ of, min, max }: Extract<Expr, { kind: "repeat" }>, from: number, to: number): void {
    if (of.kind === "chars") {
      this.edge(from, to, edge.rule, this.loop(of.set, min, max));
      return;
    }
    let at = from;
    for (let i = 0; i < min; i++) {
      const next = this.node();
      this.emit(of, at, next);
      at = next;
    }
    if (max === Infinity) {
      const turn = this.node();
      this.edge(at, turn, edge.empty);
      const back = this.node();
      this.emit(of, turn, back);
      this.edge(back, turn, edge.empty);
      this.edge(turn, to, edge.empty);
      return;
    }
    for (let i = min; i < max; i++) {
      this.edge(at, to, edge.empty);
      const next = this.node();
      this.emit(of, at, next);
      at = next;
    }
    this.edge(at, to, edge.empty);
  }

  private emitWords(words: readonly string[], from: number, to: number): void {
    if (words.length === 1) {
      this.emitText(words[0]!, from, to);
      return;
    }
    const bytes = words.map((word) =>
      ascii.test(word) ? word : Buffer.from(word, "utf8").toString("latin1"),
    );
    for (const word of bytes) this.wordBytes += word.length;
    if (this.wordBytes > limits.wordBytes) throw tooLarge(`${limits.wordBytes} bytes of listed values`);
    const number = this.addRule({ kind: "words", words: [...new Set(bytes)].sort() });
    this.edge(from, to, edge.rule, number);
  }

  /** Equal loops are one rule, so that what is known of one is known of all. */
  private loop({ ranges, encoding }: CharSet, min: number, max: number): number {
    const end = max === Infinity ? -1 : max;
    const key = `${encoding} ${min} ${end} ${ranges.join()}`;
    const known = this.loops.get(key);
    if (known !== undefined) return known;
    const number = this.addRule({ kind: "loop", ranges, encoding, min, max: end });
    this.loops.set(key, number);
    return number;
  }

  private numberOf(name: string): number {
    const known = this.numbers.get(name);
    if (known !== undefined) return known;
    const number = this.addRule();
    this.numbers.set(name, number);
    this.pending.push(name);
    return number;
  }
}

// biome-ignore lint/suspicious/noControlCharactersInRegex: all of ASCII is meant
const ascii = /^[\x00-\x7f]*$/;

function tooLarge(limit: string) {
  return refused("grammar", `at most ${limit}`, "a larger one", {
    fix: "Make it simpler or its counts smaller",
  });
}

/** Whether a set has any character; one without matches nothing. */
export function isEmptySet({ ranges }: CharSet): boolean {
  return ranges.length === 0 || !contains(ranges, ranges[0]!);
}
