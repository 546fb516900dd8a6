/**
 * Writes docs/ops.md, the table of ops with the backends that have them, from the op table.
 * Usage: bun scripts/ops-page.ts [--check]     Output: docs/ops.md; with --check only whether it is up to date.
 */
import { join } from "node:path";
import { hasBackend } from "../src/ir/op.ts";
import { ops } from "../src/ir/ops/index.ts";

const root = join(import.meta.dir, "..");
const page = join(root, "docs/ops.md");

const backends = ["cpu", "cuda", "metal"] as const;

/** The page as it should stand. */
export function opsPage(): string {
  const rows = ops.map((op) => {
    const inputs = op.inputs.map((i) => (i.optional ? `${i.name}?` : i.name)).join(", ");
    const has = backends.map((backend) => (hasBackend(op, backend) ? "yes" : "no")).join(" | ");
    return `| \`${op.name}\` | ${op.summary} | ${inputs} | ${op.params.join(", ") || "-"} | ${has} |`;
  });
  return `# Ops
Made from the op table (\`src/ir/ops\`) by \`bun scripts/ops-page.ts\`. Shapes, dtypes and the C prototypes:
\`ffi/psionic.h\` and, for training, \`ffi/psionic_train.h\`. An op that a backend lacks is refused with the op's and the backend's name; nothing falls back. The
meta backend (shapes only) takes every op.

| op | what it does | inputs | parameters | ${backends.join(" | ")} |
|---|---|---|---|---|---|---|
${rows.join("\n")}

## Weight types
Products (\`matmul\`, \`moe_matmul\`) and \`embedding\` take F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q2_K, Q3_K,
Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS and MXFP4; products also F64, in plain reference loops. Block types multiply integers
(activations rounded to 8 bits per 32 columns, to 16 in models with routers), float types f32. CUDA rounds activations to bf16; with F16
and BF16 weights it takes them in two parts of bf16. The cache takes f32, f16, bf16, fp8 (e4m3, not on Metal) and q8_0.
`;
}

if (import.meta.main) {
  const text = opsPage();
  if (!process.argv.includes("--check")) await Bun.write(page, text);
  else if ((await Bun.file(page).text()) !== text) {
    console.error(
      "[ops-page] expected docs/ops.md as the op table has it, got another text. Run: bun scripts/ops-page.ts",
    );
    process.exit(1);
  }
}
