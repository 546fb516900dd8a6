/** Entry of a thread that compiles grammars; an extra entry point of the executable's build. */
import { type ErrorRecord, errorRecord } from "../engine/link.ts";
import { type CompiledTask, compileTask, type GrammarTask } from "./task.ts";

/** One task at a time, as JSON: a text is handed over at once, whatever is in it. */
export type CompilerRequest = { readonly task: string };
export type CompilerReply = CompiledTask | { readonly error: ErrorRecord };

declare const self: Worker;

self.onmessage = ({ data }: MessageEvent<CompilerRequest>) => {
  try {
    const compiled = compileTask(JSON.parse(data.task) as GrammarTask);
    self.postMessage(compiled satisfies CompilerReply, [compiled.program.buffer]);
  } catch (error) {
    self.postMessage({ error: errorRecord(error) } satisfies CompilerReply);
  }
};
