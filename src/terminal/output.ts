import { createConsola } from "consola";
import { visible } from "./visible.ts";

/** Messages for people: stderr only, so that stdout holds nothing but results. Plain where NO_COLOR is set. */
export const messages = createConsola({
  stdout: process.stderr,
  stderr: process.stderr,
  level: 3,
  formatOptions: { date: false, colors: colours(process.stderr), compact: true },
});

/** Whether a stream should be written to in colour. */
export function colours(stream: { readonly isTTY?: boolean }): boolean {
  return stream.isTTY === true && !process.env.NO_COLOR && process.env.TERM !== "dumb";
}

/** Writes a result; waits until the pipe has taken it. */
export async function print(text: string): Promise<void> {
  await Bun.write(Bun.stdout, visible(text.endsWith("\n") ? text : `${text}\n`));
}

/** Writes a result for machines, one JSON document on a line of its own. */
export async function printJson(value: unknown): Promise<void> {
  await print(JSON.stringify(value));
}
