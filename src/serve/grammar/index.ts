export { answerGrammar, type Slots } from "./answer.ts";
export { compileGrammar } from "./compile.ts";
export { type Constraint, type ConstraintSource, Grammars, type TokenMask } from "./constraint.ts";
export type { Grammar } from "./expr.ts";
export { parseGbnf } from "./gbnf.ts";
export type { Program } from "./program.ts";
export { regexExpr } from "./regex.ts";
export { jsonGrammar, schemaGrammar } from "./schema.ts";
export { packTokens, type TokenBytes } from "./token_trie.ts";
