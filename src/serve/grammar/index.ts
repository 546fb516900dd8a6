export { compileGrammar } from "./compile.ts";
export { type CompiledGrammar, GrammarCompiler } from "./compiler.ts";
export {
  type Constraint,
  type ConstraintSource,
  Grammars,
  rememberProgram,
  type TokenMask,
} from "./constraint.ts";
export type { Grammar } from "./expr.ts";
export { parseGbnf } from "./gbnf.ts";
export { packProgram, unpackProgram } from "./pack.ts";
export type { Program } from "./program.ts";
export { inField } from "./refusal.ts";
export { anyGrammar, schemaGrammar } from "./schema.ts";
export { checkValue } from "./schema_value.ts";
export type { GrammarTask, OfferedTools, StructuredOutput } from "./task.ts";
export { packTokens, type TokenBytes } from "./token_trie.ts";
