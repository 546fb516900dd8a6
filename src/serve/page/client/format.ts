/** Figures for people. */

/** `850 ms`, `4.2 s`, `3 min 5 s`. */
export function duration(ms: number): string {
  if (ms < 10) return `${ms.toFixed(1)} ms`;
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 60_000) return `${(ms / 1000).toFixed(ms < 10_000 ? 2 : 1)} s`;
  return `${Math.floor(ms / 60_000)} min ${Math.round((ms % 60_000) / 1000)} s`;
}

/** `512 MB`, `7.9 GB`; decimal, as memory is sold. */
export function bytes(count: number): string {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let value = count;
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${value < 10 && unit > 0 ? value.toFixed(1) : Math.round(value)} ${units[unit]}`;
}

/** A rate with three digits at most. */
export function rate(perSecond: number): string {
  if (perSecond === 0) return "0";
  return perSecond < 100 ? perSecond.toFixed(1) : Math.round(perSecond).toLocaleString("en");
}

export function count(value: number): string {
  return value.toLocaleString("en");
}

/** `13.6M`, `20.9B`: how parameters are told. */
export function magnitude(value: number): string {
  for (const [size, unit] of [
    [1e12, "T"],
    [1e9, "B"],
    [1e6, "M"],
    [1e3, "k"],
  ] as const) {
    if (value >= size) return `${(value / size).toFixed(value / size < 100 ? 1 : 0)}${unit}`;
  }
  return String(value);
}

export function percent(share: number): string {
  return `${Math.round(share * 100)} %`;
}

export function clock(atMs: number): string {
  return new Date(atMs).toLocaleTimeString("en-GB");
}

export function plural(value: number, noun: string): string {
  return `${count(value)} ${noun}${value === 1 ? "" : "s"}`;
}
