import { UsageError } from "./command.ts";

const units: Readonly<Record<string, number>> = {
  "": 1,
  k: 1000,
  m: 1000 ** 2,
  g: 1000 ** 3,
  t: 1000 ** 4,
  ki: 1024,
  mi: 1024 ** 2,
  gi: 1024 ** 3,
  ti: 1024 ** 4,
};

/** Bytes of an option: `8GiB`, `500MB`, `1.5G`, `0`. Undefined where it was not given. */
export function sizeBytes(value: string | undefined, option: string): number | undefined {
  if (value === undefined) return undefined;
  const match = /^(\d{1,15}(?:\.\d{1,6})?)\s*([kmgt]i?)?b?$/i.exec(value.trim());
  const unit = match ? units[(match[2] ?? "").toLowerCase()] : undefined;
  if (match && unit !== undefined) {
    const bytes = Math.floor(Number(match[1]) * unit);
    if (Number.isSafeInteger(bytes)) return bytes;
  }
  throw new UsageError(`${option} takes a size like 8GiB or 500MB, got ${value || "nothing"}`);
}
