export { compileGrammar } from "./compile.ts";
export { type Constraint, type ConstraintSource, Grammars, type TokenMask } from "./constraint.ts";
export type { Program } from "./program.ts";
export { packTokens, type TokenBytes } from "./token_trie.ts";
