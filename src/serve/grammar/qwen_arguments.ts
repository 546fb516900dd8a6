import { isText, parameterTypes } from "../../models/chat/qwen35_values.ts";
import type { ChatTool } from "../../models/chat/types.ts";
import { allRanges, charSet, without } from "./chars.ts";
import { chars, choice, type Expr, type Grammar, optional, repeat, rule, seq, text } from "./expr.ts";
import { jsonNotation, type Notation } from "./notation.ts";
import { type SchemaGrammar, type SchemaOptions, schemaGrammar } from "./schema.ts";
import { isSchema, type Schema } from "./schema_keywords.ts";

const parameterEnd = "</parameter>";
const line = text("\n");
const any = charSet(allRanges, "utf8");
/** Bounded texts are without the sign that their end begins with. */
const notMarkup = charSet(without(allRanges, [0x3c, 0x3c]), "utf8");
/** Any text up to the end of its parameter, that end included. */
const untilEnd = "qwen text 0";

/** How the value of a parameter that is a string stands there: as it is. */
const rawNotation: Notation = {
  ...jsonNotation,
  characters: notMarkup,
  encoding: "utf8",
  string: (inner) => inner,
  values: (values) => ({
    kind: "words",
    of: values.map((one) => (typeof one === "string" ? one : JSON.stringify(one))),
  }),
};

/**
 * Arguments as Qwen 3.5 writes them: `<parameter=NAME>`, a line with the value, `</parameter>`, in the order of the schema.
 * Strings stand without quotes, everything else is JSON.
 */
export function qwenArguments(tool: ChatTool, options: SchemaOptions): SchemaGrammar {
  const { parameters = {} } = tool;
  const { properties, required } = parameters;
  const rules = new Map<string, Expr>(textRules);
  const notes: string[] = [];
  if (!isSchema(properties)) return { rules, notes, root: repeat(anyParameter, 0, Infinity) };
  const must = new Set(Array.isArray(required) ? required : []);
  const of = Object.keys(properties).map((name, i) => {
    const prefix = `${options.prefix ?? "tool"}.${i}`;
    const value = valueGrammar(tool, name, properties[name], { ...options, prefix });
    for (const [key, expr] of value.rules) rules.set(key, expr);
    notes.push(...value.notes.map((note) => `properties.${name}.${note}`));
    const parameter = seq(text(`<parameter=${name}>\n`), value.root, line);
    return must.has(name) ? parameter : optional(parameter);
  });
  return { rules, notes, root: seq(...of) };
}

/** A value with the end of its parameter. */
function valueGrammar(tool: ChatTool, name: string, schema: unknown, options: SchemaOptions): SchemaGrammar {
  const types = parameterTypes(tool, name);
  const free = { rules: new Map<string, Expr>(), notes: [], root: rule(untilEnd) };
  const own: Schema = isSchema(schema) ? schema : {};
  if (types !== undefined && !isText(types)) {
    // among other types a text could be taken for one of them
    if (types.has("string")) return free;
    return ended(schemaGrammar(withDefinitions(own, tool), options));
  }
  const limits = ["enum", "const", "pattern", "format", "minLength", "maxLength"];
  if (!limits.some((keyword) => Object.hasOwn(own, keyword))) return free;
  return ended(schemaGrammar(withDefinitions(own, tool), { ...options, notation: rawNotation }));
}

function ended(grammar: SchemaGrammar): SchemaGrammar {
  return { ...grammar, root: seq(grammar.root, text(`\n${parameterEnd}`)) };
}

/** References of a property lead into the whole schema. */
function withDefinitions(schema: Schema, { parameters = {} }: ChatTool): Schema {
  const { $defs, definitions } = parameters;
  return { ...schema, ...($defs ? { $defs } : {}), ...(definitions ? { definitions } : {}) };
}

/** One rule for each number of characters of the end that have just been read. */
const textRules: Grammar["rules"] = new Map(
  Array.from({ length: parameterEnd.length + 1 }, (_, read): [string, Expr] => {
    const name = `qwen text ${read}`;
    if (read === parameterEnd.length) return [name, text("")];
    const next = parameterEnd[read]!;
    const point = next.charCodeAt(0);
    const others = without(
      any.ranges,
      [...new Set([0x3c, point])].sort((a, b) => a - b).flatMap((p) => [p, p]),
    );
    const again = read === 0 ? [] : [seq(text("<"), rule("qwen text 1"))];
    return [
      name,
      choice(
        seq(text(next), rule(`qwen text ${read + 1}`)),
        ...again,
        seq(chars(charSet(others, "utf8")), rule(untilEnd)),
      ),
    ];
  }),
);

const anyParameter: Expr = seq(
  text("<parameter="),
  repeat(chars(charSet(without(allRanges, [0x00, 0x20, 0x3c, 0x3c, 0x3e, 0x3e]), "utf8")), 1, 64),
  text(">\n"),
  rule(untilEnd),
  line,
);
