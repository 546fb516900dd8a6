import { messages } from "../../terminal/output.ts";

/** What a server says on stderr beside its request log, as text for people or JSON lines for machines. */
export type ServerLog = {
  readonly json: boolean;
  /** A finished line of the request log. */
  readonly line: (text: string) => void;
  readonly info: (text: string, fields?: Readonly<Record<string, unknown>>) => void;
  readonly warn: (text: string, fields?: Readonly<Record<string, unknown>>) => void;
  readonly error: (text: string, fields?: Readonly<Record<string, unknown>>) => void;
};

export function serverLog(format: "text" | "json"): ServerLog {
  const line = (text: string): void => {
    process.stderr.write(`${text}\n`);
  };
  if (format === "text") {
    return {
      ...{ json: false, line },
      info: (text) => messages.info(text),
      warn: (text) => messages.warn(text),
      error: (text) => messages.error(text),
    };
  }
  const entry =
    (level: string) =>
    (message: string, fields: Readonly<Record<string, unknown>> = {}): void =>
      line(JSON.stringify({ time: new Date().toISOString(), level, message, ...fields }));
  return { json: true, line, info: entry("info"), warn: entry("warn"), error: entry("error") };
}
