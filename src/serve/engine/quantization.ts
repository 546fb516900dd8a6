import type { ModelFiles } from "../../models/files/source.ts";

/** The type that most bytes of the file have. */
export function quantization(files: Pick<ModelFiles, "tensors">): string {
  const bytes = new Map<string, number>();
  for (const { dtype, bytes: n } of files.tensors.values()) bytes.set(dtype, (bytes.get(dtype) ?? 0) + n);
  const [most] = [...bytes].sort(([, a], [, b]) => b - a);
  return most ? most[0].toUpperCase() : "NONE";
}
