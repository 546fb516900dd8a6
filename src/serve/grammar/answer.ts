import type { AnswerShape } from "../../models/chat/index.ts";
import { allRanges, charSet } from "./chars.ts";
import { chars, choice, type Expr, type Grammar, repeat, rule, seq, text } from "./expr.ts";

/** What an answer may be in the places its form leaves to the caller. */
export type Slots = {
  readonly content?: Grammar;
  readonly arguments: ReadonlyMap<string, Grammar>;
};

const free = repeat(chars(charSet(allRanges, "utf8")), 0, Infinity);

/** The grammar of whole answers: a format's form with the caller's grammars in its places. */
export function answerGrammar(
  shape: AnswerShape,
  slots: Slots,
  idOf: (mark: string) => number | undefined,
): Grammar {
  const rules = new Map<string, Expr>();
  const names = new Map<Grammar, string>();
  const slot = (grammar: Grammar | undefined): Expr => {
    if (!grammar) return choice(...[]);
    const known = names.get(grammar);
    if (known !== undefined) return rule(known);
    const name = `slot ${names.size}`;
    names.set(grammar, name);
    for (const [own, expr] of grammar.rules) rules.set(own, expr);
    rules.set(name, grammar.root);
    return rule(name);
  };
  const build = (part: AnswerShape): Expr => {
    switch (part.kind) {
      case "mark": {
        const id = idOf(part.text);
        return id === undefined ? text(part.text) : { kind: "token", id };
      }
      case "text":
        return text(part.text);
      case "free":
        return free;
      case "content":
        return slot(slots.content);
      case "arguments":
        return slot(slots.arguments.get(part.tool));
      case "seq":
        return seq(...part.of.map(build));
      case "choice":
        return { kind: "choice", of: part.of.map(build) };
      case "repeat":
        return repeat(build(part.of), part.min, part.max);
    }
  };
  return { root: build(shape), rules };
}
