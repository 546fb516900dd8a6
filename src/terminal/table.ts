/** Rows as aligned columns, two blanks apart; columns listed in `right` are aligned to the right. */
export function table(rows: readonly (readonly string[])[], right: readonly number[] = []): string {
  const widths: number[] = [];
  for (const row of rows) {
    row.forEach((cell, i) => {
      widths[i] = Math.max(widths[i] ?? 0, Bun.stringWidth(cell));
    });
  }
  const pad = (cell: string, i: number): string => {
    const room = " ".repeat(widths[i]! - Bun.stringWidth(cell));
    return right.includes(i) ? room + cell : cell + room;
  };
  return rows.map((row) => row.map(pad).join("  ").trimEnd()).join("\n");
}

/** `12.3 MiB`. */
export function readableBytes(bytes: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit++;
  }
  return unit === 0 ? `${bytes} B` : `${value.toFixed(value < 10 ? 2 : 1)} ${units[unit]}`;
}

/** `13.6M`. */
export function readableCount(n: number): string {
  for (const [size, letter] of [
    [1e12, "T"],
    [1e9, "B"],
    [1e6, "M"],
    [1e3, "K"],
  ] as const) {
    if (n >= size) return `${(n / size).toFixed(n / size < 10 ? 2 : 1)}${letter}`;
  }
  return String(n);
}
