import { sha256 } from "../core/digest.ts";
import { canonicalJson } from "../core/json.ts";
import type { Program } from "../ir/program.ts";

/** `sha256:<hex>` over the program's calls, shapes and parameters; addresses and weights' contents take no part. */
export function planDigest(program: Program): string {
  const values = program.values.map((v) => [v.dtype, v.packed, v.kind, v.shape]);
  const calls = program.calls.map((c) => [c.op, c.inputs, c.outputs, jsonParams(c.params)]);
  return `sha256:${sha256(canonicalJson({ version: 1, values, calls }))}`;
}

/** Parameters are numbers, booleans and names; -Infinity and the like travel as text. */
function jsonParams(params: Readonly<Record<string, unknown>>): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(params).map(([k, v]) => [k, typeof v === "number" && !Number.isFinite(v) ? String(v) : v]),
  );
}
