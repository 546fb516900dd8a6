import type { Steps } from "../../core/steps.ts";

/** The text of `{...before, [name]: [...], ...after}` in steps, one for each run of the list's members. */
export function* listJson(
  before: object,
  name: string,
  runs: Iterable<readonly unknown[]>,
  after: object = {},
): Steps<Uint8Array> {
  const [head, tail] = [JSON.stringify(before).slice(1, -1), JSON.stringify(after).slice(1, -1)];
  const parts = [Buffer.from(`{${head}${head && ","}${JSON.stringify(name)}:[`)];
  for (const run of runs) {
    if (run.length === 0) continue;
    parts.push(Buffer.from(`${parts.length > 1 ? "," : ""}${JSON.stringify(run).slice(1, -1)}`));
    yield;
  }
  parts.push(Buffer.from(`]${tail && ","}${tail}}`));
  return Buffer.concat(parts);
}

/** The text of `{[name]: "..."}` in steps, one for each part, of which none may end within a character. */
export function* textJson(name: string, texts: Iterable<string>): Steps<Uint8Array> {
  const parts = [Buffer.from(`{${JSON.stringify(name)}:"`)];
  for (const text of texts) {
    parts.push(Buffer.from(JSON.stringify(text).slice(1, -1)));
    yield;
  }
  parts.push(Buffer.from('"}'));
  return Buffer.concat(parts);
}

/** Runs of at most `most` of the members of lists. */
export function* runsOf<T>(lists: Iterable<readonly T[]>, most: number): Iterable<readonly T[]> {
  for (const list of lists) for (let i = 0; i < list.length; i += most) yield list.slice(i, i + most);
}
