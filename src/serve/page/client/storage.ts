/**
 * What the page remembers: the key and the conversation for as long as the tab lives, settings beyond. A browser that
 * forbids storage makes it forget at the next visit, nothing else.
 */

type Kind = "tab" | "browser";

const prefix = "psionic.";

function place(kind: Kind): Storage | undefined {
  try {
    return kind === "tab" ? window.sessionStorage : window.localStorage;
  } catch {
    return undefined;
  }
}

export function remembered(kind: Kind, name: string): string | undefined {
  return place(kind)?.getItem(prefix + name) ?? undefined;
}

/** Keeps a text, or forgets it when there is none. */
export function remember(kind: Kind, name: string, value: string | undefined): void {
  try {
    if (value === undefined) place(kind)?.removeItem(prefix + name);
    else place(kind)?.setItem(prefix + name, value);
  } catch {
    // full: the next visit begins without it
  }
}

/** What JSON in storage says; undefined when it is no JSON. Its shape is the caller's to check. */
export function rememberedJson(kind: Kind, name: string): unknown {
  const text = remembered(kind, name);
  if (text === undefined) return undefined;
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
