/**
 * Translates a .metal file to C++ for the stand-in. Address spaces become nothing (macros of metal_stdlib), a `threadgroup`
 * variable becomes a place in its threadgroup's memory, function constants become variables, and every kernel gets an
 * entry in a table, with a function that takes its arguments by index.
 */

type Parameter = {
  readonly type: string;
  readonly name: string;
  readonly kind: string;
  readonly index: number;
};
type KernelSource = { readonly parameters: readonly Parameter[]; readonly template: boolean };

const builtIns = new Set([
  "thread_position_in_grid",
  "thread_position_in_threadgroup",
  "threadgroup_position_in_grid",
  "threads_per_threadgroup",
  "threadgroups_per_grid",
  "threads_per_grid",
  "thread_index_in_threadgroup",
  "thread_index_in_simdgroup",
  "simdgroup_index_in_threadgroup",
  "simdgroups_per_threadgroup",
]);

/** The name of the table that a file's translation defines. */
export function libraryName(stem: string): string {
  return `library_${stem}`;
}

/** FNV-1a of the text's bytes, by which the stand-in finds what was translated from a source. */
export function sourceHash(text: string): string {
  let hash = 0xcbf29ce484222325n;
  for (const byte of new TextEncoder().encode(text)) {
    hash = BigInt.asUintN(64, (hash ^ BigInt(byte)) * 0x100000001b3n);
  }
  return `0x${hash.toString(16)}u`;
}

/**
 * C++ of a .metal file, given with its macros expanded; `source` is what Metal would compile. Throws where it holds what the
 * translation does not know.
 */
export function translate(stem: string, expandedSource: string, source: string): string {
  let text = withoutComments(expandedSource);
  const hosts: { readonly name: string; readonly call: string }[] = [];
  text = text.replace(
    /template\s*\[\[\s*host_name\("([^"]+)"\)\s*\]\]\s*(?:\[\[[^\]]*\]\]\s*)?kernel\s+(?:void|decltype\([^;]*?\))\s+(\w+)\s*(<[^;(]*>)?[^;]*;/g,
    (whole, name: string, call: string, args: string | undefined) => {
      hosts.push({ name, call: `${call}${args ?? ""}` });
      return whole.replace(/[^\n]/g, "");
    },
  );
  const kernels = parseKernels(stem, text);
  const constants: string[] = [];
  text = text.replace(
    /\bconstant\s+(bool|int|uint|float)\s+(\w+)\s*\[\[\s*function_constant\((\d+)\)\s*\]\]\s*;/g,
    (_whole, type: string, name: string, index: string) => {
      const optional = new RegExp(`is_function_constant_defined\\(\\s*${name}\\s*\\)`).test(source);
      constants.push(`{"${name}", "${type}", ${index}, ${optional}, &${name}, &psi_is_defined_${name}},`);
      return `static ${type} ${name}; static bool psi_is_defined_${name};`;
    },
  );
  text = text.replace(
    /\bthreadgroup\s+([\w:<>, ]+?)\s+(\w+)\s*((?:\[[^\]]*\]\s*)*);/g,
    (_whole, type: string, name: string, dimensions: string) => threadgroupVariable(type, name, dimensions),
  );
  text = text.replace(
    /\[\[\s*(?:buffer|threadgroup|max_total_threads_per_threadgroup)\s*\([^)]*\)\s*\]\]/g,
    "",
  );
  text = text.replace(/\[\[\s*(\w+)\s*\]\]/g, (whole, name: string) => (builtIns.has(name) ? "" : whole));
  for (const [name, { template }] of kernels) if (!template) hosts.push({ name, call: name });
  const thunks = hosts.map(({ name, call }) => thunk(name, call, kernelOf(stem, kernels, call)));
  const table = hosts.map(({ name, call }) => {
    const { parameters } = kernelOf(stem, kernels, call);
    const bits = parameters
      .filter((p) => p.kind === "threadgroup")
      .reduce((sum, p) => sum | (1 << p.index), 0);
    return `{"${name}", call_${name}, buffers_${name}, ${bits}u},`;
  });
  const name = libraryName(stem);
  return [
    `#include <kernel.h>\n#include <metal_stdlib>\nnamespace kernels_${stem} {\n${text}`,
    ...thunks,
    `static const psi_metal::Kernel kernel_table[] = {${table.join("\n")} {0, 0, 0, 0}};`,
    `static const psi_metal::FunctionConstant constant_table[] = {${constants.join("\n")} {0, 0, 0, 0, 0, 0}};`,
    "}",
    `namespace psi_metal { extern const Library ${name}; const Library ${name} = {"${stem}", ${sourceHash(source)}, kernels_${stem}::kernel_table, kernels_${stem}::constant_table}; }`,
    "",
  ].join("\n");
}

function withoutComments(text: string): string {
  return text
    .replace(/\/\*[\s\S]*?\*\//g, (comment) => comment.replace(/[^\n]/g, ""))
    .replace(/\/\/[^\n]*/g, "");
}

function kernelOf(stem: string, kernels: ReadonlyMap<string, KernelSource>, call: string): KernelSource {
  const found = kernels.get(call.replace(/<[\s\S]*/, ""));
  if (!found) throw new Error(`[${stem}.metal] expected a kernel for ${call}, got none`);
  return found;
}

function parseKernels(stem: string, text: string): Map<string, KernelSource> {
  const kernels = new Map<string, KernelSource>();
  for (const match of text.matchAll(
    /(template\s*<[^;{]*?>\s*)?(?:\[\[[^\]]*\]\]\s*)?\bkernel\s+void\s+(\w+)\s*\(/g,
  )) {
    const parts = splitArguments(text, match.index + match[0].length);
    const parameters = parts.map((part) => parameter(stem, match[2]!, part));
    kernels.set(match[2]!, { parameters, template: match[1] !== undefined });
  }
  return kernels;
}

/** The arguments of a list that begins at `from`, split at its own commas. */
function splitArguments(text: string, from: number): string[] {
  const parts: string[] = [];
  let depth = 0;
  let part = "";
  for (let i = from; i < text.length; i++) {
    const c = text[i]!;
    if (c === ")" && depth === 0) break;
    if ("(<[".includes(c)) depth++;
    if (")>]".includes(c)) depth--;
    if (c === "," && depth === 0) {
      parts.push(part);
      part = "";
    } else part += c;
  }
  return [...parts, part].filter((p) => p.trim() !== "");
}

function parameter(stem: string, kernel: string, text: string): Parameter {
  const attribute = /\[\[\s*(\w+)\s*(?:\(\s*(\d+)\s*\))?\s*\]\]/.exec(text);
  const declaration = /^\s*([\s\S]*?)(\w+)\s*$/.exec(text.replace(/\[\[[\s\S]*\]\]/, ""));
  if (!attribute || !declaration) {
    throw new Error(
      `[${stem}.metal] expected an attribute with every argument of ${kernel}, got ${text.trim()}`,
    );
  }
  const kind = attribute[1]!;
  if (kind !== "buffer" && kind !== "threadgroup" && !builtIns.has(kind)) {
    throw new Error(`[${stem}.metal] expected an attribute that the stand-in knows, got ${kind}`);
  }
  return { type: declaration[1]!.trim(), name: declaration[2]!, kind, index: Number(attribute[2] ?? -1) };
}

function threadgroupVariable(type: string, name: string, dimensions: string): string {
  const of = `psi_type_${name}`;
  const place = `psi_metal::threadgroup_variable(&psi_id_${name}, "${name}", sizeof(${of}), alignof(${of}))`;
  const lines = [
    `static int psi_id_${name};`,
    `using ${of} = ${type}${dimensions.replace(/\s+/g, " ").trim()};`,
    `${of}& ${name} = *(${of}*)${place};`,
  ];
  return lines.join(" ") + dimensions.replace(/[^\n]/g, "");
}

function thunk(name: string, call: string, { parameters }: KernelSource): string {
  const argument = ({ type, kind, index }: Parameter): string => {
    if (kind === "threadgroup") return `psi_metal::PointerArgument{a->threadgroups[${index}]}`;
    if (kind !== "buffer") return `psi_metal::BuiltInArgument{b.${kind}}`;
    const of = type.endsWith("&") ? "ReferenceArgument" : "PointerArgument";
    return `psi_metal::${of}{a->buffers[${index}]}`;
  };
  const buffers = parameters
    .filter((p) => p.kind === "buffer")
    .map((p) => `{${p.index}, ${!/\bconst(ant)?\b/.test(p.type)}, "${p.name}"},`);
  return [
    `__attribute__((no_sanitize("thread"))) static void call_${name}(const psi_metal::Arguments* a) {`,
    "  psi_metal::BuiltIns b = psi_metal::built_ins();",
    "  (void)b;",
    `  ${call}(${parameters.map(argument).join(", ")});`,
    "}",
    `static const psi_metal::BufferArgument buffers_${name}[] = {${buffers.join(" ")} {0, false, 0}};`,
  ].join("\n");
}
