/**
 * Rules of Metal that clang's C++ for OpenCL does not have, looked for in a kernel file's text with its macros expanded and
 * without comments: words that Metal lacks, recursion, pointers that name no address space, where variables may stand, names that
 * several compiled files would share.
 */

const words: readonly (readonly [RegExp, string])[] = [
  [/\b(?:long\s+)?double\b/, "Metal has no double"],
  [/\b(?:try|catch|throw)\b/, "Metal has no exceptions"],
  [/\b(?:new|delete)\b/, "Metal allocates no memory"],
  [/\bvirtual\b/, "Metal has no virtual functions"],
  [/\bdynamic_cast\b|\btypeid\b/, "Metal has no run-time types"],
  [/\bgoto\b/, "Metal has no goto"],
  [/\bbfloat\b/, "kernels here take bf16 as ushort bits: MSL 3.0 has no bfloat"],
  [/\bthread_local\b/, "Metal has no thread_local"],
  [/[=(,]\s*\[[&=\w\s,]*\]\s*(?:\([^)]*\))?\s*\{/, "MSL 3.0 has no lambda expressions"],
  [/\b(?:\d+\.\d*|\.\d+)(?:[eE][-+]?\d+)?(?![\w.])/, "a literal without f is a double in C++"],
  [/\b(?:printf|assert|malloc|memcpy|memset)\s*\(/, "Metal has no C library"],
  [/\bif\s+constexpr\b|\bauto\s*&?\s*\[|\btemplate\s*<\s*auto\b/, "MSL 3.0 is C++14"],
  [/\b(?:nullptr|NULL)\b/, "0 is an address of threadgroup memory: give a flag beside the pointer"],
];

/** Everything of the text that breaks a rule, a line each. */
export function brokenRules(text: string): string[] {
  const plain = text.replace(/"[^"\n]*"/g, '""').replace(/^#.*$/gm, "");
  return [
    ...forbidden(plain),
    ...recursion(plain),
    ...withoutAddressSpace(plain),
    ...positions(plain),
    ...scopes(plain),
  ];
}

function forbidden(text: string): string[] {
  const found: string[] = [];
  for (const [i, line] of text.split("\n").entries()) {
    for (const [pattern, why] of words) {
      const match = pattern.exec(line);
      if (match) found.push(`${why}: "${line.trim().slice(0, 100)}" (line ${i + 1} with macros expanded)`);
    }
  }
  return found;
}

/** Functions that reach themselves, by name. */
function recursion(text: string): string[] {
  const calls = new Map<string, Set<string>>();
  for (const match of text.matchAll(/\b(\w+)\s*\(([^;{}()]|\([^()]*\))*\)\s*(?:const\s*)?\{/g)) {
    const name = match[1]!;
    if (["if", "for", "while", "switch"].includes(name)) continue;
    const body = blockFrom(text, match.index + match[0].length);
    const own = calls.get(name) ?? new Set<string>();
    for (const [, called] of body.matchAll(/\b(\w+)\s*(?:<[^;<>(]*>)?\s*\(/g)) own.add(called!);
    calls.set(name, own);
  }
  const reaches = (from: string, to: string, seen: Set<string>): boolean => {
    for (const next of calls.get(from) ?? []) {
      if (next === to) return true;
      if (seen.has(next) || !calls.has(next)) continue;
      seen.add(next);
      if (reaches(next, to, seen)) return true;
    }
    return false;
  };
  return [...calls.keys()]
    .filter((name) => reaches(name, name, new Set()))
    .map((name) => `Metal has no recursion: ${name} calls itself`);
}

/** Text up to the brace that closes the one before `from`. */
function blockFrom(text: string, from: number): string {
  let depth = 1;
  for (let i = from; i < text.length; i++) {
    if (text[i] === "{") depth++;
    if (text[i] === "}" && --depth === 0) return text.slice(from, i);
  }
  return text.slice(from);
}

const plainTypes =
  "(?:void|bool|auto|half|float|u?char|u?short|u?int|u?long|u?int(?:8|16|32|64)_t)[234]?|packed_\\w+|atomic_\\w+|simdgroup_\\w+(?:<[^<>;]*>)?";

/** Pointers and references to a type with no address space before it. To clang they are pointers to private memory. */
function withoutAddressSpace(text: string): string[] {
  const own = [...text.matchAll(/\b(?:struct|enum|typename|class)\s+(\w+)/g)].map(([, name]) => name!);
  const types = [plainTypes, ...new Set(own)].join("|");
  return [...text.matchAll(new RegExp(`\\b(?:${types})\\b(?:\\s+const)?\\s*[*&](?!&)`, "g"))]
    .filter(({ index }) => {
      const before = text.slice(Math.max(0, index - 60), index);
      return !/\b(?:device|threadgroup|constant|thread)\s+(?:(?:const|volatile|struct)\s+)*$/.test(before);
    })
    .map(({ 0: what, index }) => {
      const line = text.slice(text.lastIndexOf("\n", index) + 1).split("\n")[0]!;
      const place = `"${what}" of "${line.trim().slice(0, 100)}"`;
      return `a pointer or reference names its address space: ${place}${functionAt(text, index)}`;
    });
}

/** The kernel or function that a place in the text belongs to, its head included, as an ending of a finding. */
function functionAt(text: string, index: number): string {
  const last = [
    ...text
      .slice(0, index)
      .matchAll(/^(?:template\s*<[^>]*>\s*)?(static\s+inline|kernel)\s[^;={}()]*?(\w+)\s*\(/gm),
  ].at(-1);
  return last ? ` [${last[1] === "kernel" ? "kernel" : "function"} ${last[2]}]` : "";
}

/** Metal takes all positions and sizes of a kernel's grid as scalars, or all as vectors of one length. */
function positions(text: string): string[] {
  const found: string[] = [];
  for (const [, name, list] of text.matchAll(/\bkernel\s+void\s+(\w+)\s*\(([^{;]*)\)\s*\{/g)) {
    const lengths = new Set<string>();
    for (const [, length] of list!.matchAll(
      /\bu(?:int|short)([23]?)\s+\w+\s*\[\[\s*(?:thread_position_in_\w+|threadgroup_position_in_grid|threads_per_\w+|threadgroups_per_grid)\s*\]\]/g,
    )) {
      lengths.add(length || "1");
    }
    const all = [...lengths].join(" and ");
    if (lengths.size > 1)
      found.push(`positions and sizes of one kernel have one length, got ${all} [kernel ${name}]`);
  }
  return found;
}

/**
 * What stands where: threadgroup variables at the beginning of a kernel, as OpenCL has it; functions and tables of a file
 * its own (static), since files are compiled apart and joined in one library.
 */
function scopes(text: string): string[] {
  const found: string[] = [];
  let depth = 0;
  let head = "";
  let isKernel = false;
  for (const part of text.split(/(?<=[{};])/)) {
    const statement = part.trim();
    if (depth === 0) {
      head = statement.replace(/\s+/g, " ");
      isKernel = /\bkernel\s+void\b/.test(head);
      found.push(...ofFile(head));
    }
    const variable = /\bthreadgroup\s+[\w:<>, ]+?\s(\w+)\s*(?:\[[^\]]*\]\s*)*;$/.exec(statement);
    if (variable && !(isKernel && depth === 1)) {
      found.push(`a threadgroup variable stands at the beginning of a kernel: ${variable[1]}`);
    }
    if (statement.endsWith("{")) depth++;
    // what follows a block on its line, as in "};", belongs to it
    if (statement.endsWith("}")) depth--;
  }
  return found;
}

/** A declaration outside of all blocks. */
function ofFile(head: string): string[] {
  if (/\bstatic\b|\bkernel\b|\bfunction_constant\b/.test(head)) return [];
  const table = /\bconstant\s+[\w ]*?(\w+)\s*(?:\[[^\]]*\]\s*)?=/.exec(head);
  if (table) return [`a constant of a file is static: ${table[1]}`];
  const made = /^(?:template\s*<[^>]*>\s*)?(?:inline\s+)?[\w:<>*& ]+?[ *&](\w+)\s*\(.*\)\s*\{$/.exec(head);
  return made ? [`a function of a file is static: ${made[1]}`] : [];
}
