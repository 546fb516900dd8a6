/**
 * Reads Metal kernels for what compiles as C++ and not in Metal: address spaces that do not match, double, recursion,
 * exceptions. clang's C++ for OpenCL has Metal's rules of address spaces; the rest is looked for in the text (rules.ts).
 * Usage: bun kernels/metal/standin/lint.ts [FILE.metal ...]   Absent: all. Prints what it found; exits 1 if anything.
 */
import { basename, join } from "node:path";
import { flattenedKernels, metalSources } from "../../build_metal.ts";
import { cache } from "../../compile.ts";
import { brokenRules } from "./rules.ts";

const headers = join(import.meta.dir, "lint");

const flags = [
  ...["-x", "clcpp", "-cl-std=clc++2021", "-target", "spir64-unknown-unknown", "-fsyntax-only"],
  ...["-D__METAL_VERSION__=300", "-Wno-unknown-attributes", "-Wno-unknown-pragmas", "-Wno-unused-value"],
  ...["-Xclang", "-cl-ext=+cl_khr_fp16,-cl_khr_fp64,-__opencl_c_fp64,-__opencl_c_generic_address_space"],
  ...["-Xclang", "-cl-ext=-__opencl_c_pipes,-__opencl_c_device_enqueue"],
  ...["-cl-no-stdinc", "-Werror", "-Wzero-as-null-pointer-constant", "-ferror-limit=0", "-I", headers],
];

/**
 * OpenCL's copy of a struct takes a pointer to any memory, which is off here, so that none may be copied; Metal's may, and C++
 * has seen whether it fits.
 */
const copiesStruct = /no matching constructor for initialization of|no viable overloaded '='/;

/** What is wrong with a kernel file, a line each; empty when nothing is. */
export async function lint(path: string): Promise<string[]> {
  const stem = basename(path, ".metal");
  const source = await flattenedKernels(path);
  const { text, fault } = await expanded(source, stem);
  if (fault) return [fault];
  const found = brokenRules(text).map((line) => `${stem}.metal: ${line}`);
  const file = join(cache, "metal", `${stem}.${process.pid}.clcpp`);
  await Bun.write(file, `#include <metal_stdlib>\n${asOpenCl(text)}`);
  const child = Bun.spawn(["clang-19", ...flags, file], { stdout: "pipe", stderr: "pipe" });
  const errors = await new Response(child.stderr).text();
  const code = await child.exited;
  if (code !== 0) {
    const lines = errors.split("\n").filter((line) => /\b(?:fatal )?error: /.test(line));
    const named = lines.map((line) => line + functionAt(source, Number(/\.metal:(\d+):/.exec(line)?.[1])));
    found.push(...named.filter((line) => !copiesStruct.test(line)));
    if (lines.length === 0) found.push(`${stem}.metal: clang ended with ${code}: ${errors.trim()}`);
  }
  await Bun.file(file).delete();
  return found;
}

/** The kernel or function that a line of the flattened file belongs to, as an ending of a finding. */
function functionAt(source: string, line: number): string {
  const before = source.split("\n").slice(0, line).reverse();
  for (const text of before) {
    const header = /^(?!using|constant|struct|enum|typedef|return|else)\w[^;=(]*[\s*&>](\w+)\s*\(/.exec(text);
    if (header) return ` [${/\bkernel\b/.test(text) ? "kernel" : "function"} ${header[1]}]`;
  }
  return "";
}

/** The text with its macros expanded; line numbers are those of the flattened file. Or why there is none. */
async function expanded(source: string, stem: string): Promise<{ text: string; fault?: string }> {
  const hidden = source.replace(/^\s*#include\s+<.*$/gm, "");
  const command = ["clang++-19", "-E", "-x", "c++", "-std=c++17", "-D__METAL_VERSION__=300", "-w", "-"];
  const child = Bun.spawn(command, { stdin: new Blob([hidden]), stdout: "pipe", stderr: "pipe" });
  const [text, errors, code] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  if (code !== 0) {
    return { text: "", fault: `${stem}.metal: the preprocessor ended with ${code}: ${errors.trim()}` };
  }
  return { text: text.replace(/^# (\d+) "[^"]*".*$/gm, `#line $1 "${stem}.metal"`) };
}

function asOpenCl(text: string): string {
  return text
    .replace(/template\s*\[\[\s*host_name\("[^"]*"\)\s*\]\]\s*(?:\[\[[^\]]*\]\]\s*)?kernel\b/g, "template")
    .replace(
      /\bconstant\s+(bool|int|uint|float)\s+(\w+)\s*\[\[\s*function_constant\(\d+\)\s*\]\]\s*;/g,
      "constant $1 $2 = $1(0);",
    )
    .replace(
      /\bthreadgroup\s+([\w:<>, ]+?)\s+(\w+)\s*((?:\[[^\]]*\]\s*)*);/g,
      (_whole, type: string, name: string, dimensions: string) =>
        `using psi_type_${name} = ${type}${dimensions}; threadgroup psi_type_${name}& ${name} = psi_local<psi_type_${name}>();`,
    )
    .replace(/\[\[[^[\]]*(?:\([^)]*\))?\s*\]\]/g, "")
    .replace(/\bkernel\s+(?=void\b)/g, "");
}

if (import.meta.main) {
  const given = process.argv.slice(2);
  const paths = given.length > 0 ? given : (await metalSources()).kernels.map(({ path }) => path);
  let count = 0;
  for (const path of paths) {
    for (const line of await lint(path)) {
      console.log(line);
      count++;
    }
  }
  console.log(`${paths.length} files, ${count} findings`);
  process.exit(count > 0 ? 1 : 0);
}
