import type { Steps } from "../../core/steps.ts";

/** A text in parts. */
export type LongText = readonly Uint8Array[];

/** Characters of a part at least, but for the last. */
const partLength = 1 << 16;

/** The text of `{...before, [name]: [...], ...after}` in steps, one for each run of the list's members. */
export function* listJson(
  before: object,
  name: string,
  runs: Iterable<readonly unknown[]>,
  after: object = {},
): Steps<LongText> {
  const [head, tail] = [JSON.stringify(before).slice(1, -1), JSON.stringify(after).slice(1, -1)];
  const parts: Uint8Array[] = [];
  let text = `{${head}${head && ","}${JSON.stringify(name)}:[`;
  let isFirst = true;
  for (const run of runs) {
    if (run.length === 0) continue;
    text += `${isFirst ? "" : ","}${JSON.stringify(run).slice(1, -1)}`;
    isFirst = false;
    if (text.length >= partLength) {
      parts.push(Buffer.from(text));
      text = "";
    }
    yield;
  }
  return [...parts, Buffer.from(`${text}]${tail && ","}${tail}}`)];
}

/** The text of `{[name]: "..."}` in steps, one for each part, of which none may end within a character. */
export function* textJson(name: string, texts: Iterable<string>): Steps<LongText> {
  const parts: Uint8Array[] = [];
  let text = `{${JSON.stringify(name)}:"`;
  for (const one of texts) {
    text += JSON.stringify(one).slice(1, -1);
    if (text.length >= partLength) {
      parts.push(Buffer.from(text));
      text = "";
    }
    yield;
  }
  return [...parts, Buffer.from(`${text}"}`)];
}

/** The parts one after the other, as the client takes them: putting them together would take long again. */
export function streamOf(parts: LongText): Uint8Array | ReadableStream<Uint8Array> {
  if (parts.length === 1) return parts[0]!;
  let next = 0;
  return new ReadableStream<Uint8Array>({
    pull: (controller) => {
      const part = parts[next++];
      if (part) controller.enqueue(part);
      else controller.close();
    },
  });
}

/** Runs of at most `most` of the members of lists. */
export function* runsOf<T>(lists: Iterable<readonly T[]>, most: number): Iterable<readonly T[]> {
  for (const list of lists) for (let i = 0; i < list.length; i += most) yield list.slice(i, i + most);
}
