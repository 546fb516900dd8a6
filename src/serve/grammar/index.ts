export { answerGrammar, type Slots } from "./answer.ts";
export { compileGrammar } from "./compile.ts";
export {
  type Constraint,
  type ConstraintSource,
  Grammars,
  rememberProgram,
  type TokenMask,
} from "./constraint.ts";
export type { Grammar } from "./expr.ts";
export { parseGbnf } from "./gbnf.ts";
export { gemmaNotation, type Notation } from "./notation.ts";
export type { Program } from "./program.ts";
export { qwenArguments } from "./qwen_arguments.ts";
export { regexExpr } from "./regex.ts";
export { anyGrammar, type SchemaGrammar, type SchemaOptions, schemaGrammar } from "./schema.ts";
export { checkValue } from "./schema_value.ts";
export { packTokens, type TokenBytes } from "./token_trie.ts";
