import { isText, jsonOfValue, parameterTypes } from "./qwen35_values.ts";
import type { AnswerRegion, ChatTool } from "./types.ts";

/** What a call tells the parser that reads the answer. */
export type CallOutput = {
  /** A call begins. */
  readonly begin: (name: string) => void;
  /** A piece of its arguments, as JSON text. */
  readonly write: (json: string) => void;
  /** Text within the call that belongs to nothing. */
  readonly lost: () => void;
};

/** Longest name of a function or parameter, UTF-16 units. */
const MAX_NAME = 256;
const FUNCTION = "<function=";
const PARAMETER = "<parameter=";
const FUNCTION_END = "</function>";
const PARAMETER_END = "</parameter>";

type State = "head" | "parameters" | "value" | "after";

/**
 * Reads what stands between `<tool_call>` and `</tool_call>`: `<function=NAME>`, then `<parameter=KEY>` values, which
 * become JSON by the tool's schema. Values that are strings are written as they come, others when they are complete.
 */
export class Qwen35Call {
  private readonly tools: ReadonlyMap<string, ChatTool>;
  private readonly output: CallOutput;
  private state: State = "head";
  /** Text that has not been understood yet. */
  private pending = "";
  private name = "";
  private tool: ChatTool | undefined;
  private readonly keys = new Set<string>();
  private value: Value | undefined;

  constructor(tools: ReadonlyMap<string, ChatTool>, output: CallOutput) {
    this.tools = tools;
    this.output = output;
  }

  /** A function has been named, so this is a call. */
  get begun(): boolean {
    return this.name !== "";
  }

  /** No function has been named since the call, or the function before, began. */
  get inHead(): boolean {
    return this.state === "head";
  }

  get inValue(): boolean {
    return this.state === "value";
  }

  get region(): AnswerRegion {
    if (this.state === "head" || this.state === "after") return { kind: "markup" };
    const parameter = this.value === undefined ? {} : { parameter: this.value.key };
    return { kind: "arguments", tool: this.name, notation: "qwen35", ...parameter };
  }

  /** Takes text; gives back what has turned out to be no call, all of it. */
  add(text: string): string | undefined {
    this.pending += text;
    for (;;) {
      const before = this.pending.length;
      const { state } = this;
      if (state === "head" && !this.takeHead()) return this.takePending();
      if (state === "parameters") this.takeParameters();
      if (state === "value") this.takeValue();
      if (state === "after") this.takeAfter();
      if (this.state === state && (this.pending.length === before || this.pending === "")) return undefined;
    }
  }

  /** `</tool_call>` came; gives back what has turned out to be no call. */
  close(): string | undefined {
    if (this.state === "head") return this.takeJsonCall();
    if (this.value !== undefined) this.endValue(withoutFunctionEnd(this.pending));
    else if (this.pending.trim() !== "") this.output.lost();
    this.closeFunction();
    return undefined;
  }

  /**
   * The answer ends here. A call whose parameters are all complete is closed if the model ended the answer; a value that
   * is cut stays open, so that nobody takes it for the whole.
   */
  end(stopped: boolean): void {
    if (this.state === "parameters" && stopped) this.closeFunction();
  }

  /** False where the text cannot become the head of a call. */
  private takeHead(): boolean {
    const text = this.pending.trimStart();
    if (text.length < FUNCTION.length) return FUNCTION.startsWith(text) || text.startsWith("{");
    // one object with name and arguments, as the older models write it, is read when it is complete
    if (text.startsWith("{")) return true;
    const end = text.indexOf(">");
    const name = text.slice(FUNCTION.length, end < 0 ? undefined : end).trim();
    if (!text.startsWith(FUNCTION) || name.length > MAX_NAME || /[\s<>{}]/.test(name)) return false;
    if (end < 0) return true;
    if (name === "") return false;
    this.name = name;
    this.tool = this.tools.get(name);
    this.state = "parameters";
    this.pending = text.slice(end + 1);
    this.output.begin(name);
    return true;
  }

  private takeParameters(): void {
    const text = this.pending.trimStart();
    this.pending = text;
    if (text.startsWith(FUNCTION_END)) {
      this.pending = text.slice(FUNCTION_END.length);
      this.closeFunction();
      return;
    }
    if (text.startsWith(PARAMETER)) {
      const end = text.indexOf(">");
      const key = text.slice(PARAMETER.length, end < 0 ? undefined : end).trim();
      if (key.length <= MAX_NAME && !/[\n<]/.test(key)) {
        if (end >= 0) this.openValue(key, text.slice(end + 1));
        return;
      }
    } else if (PARAMETER.startsWith(text) || FUNCTION_END.startsWith(text)) return;
    this.output.lost();
    const next = text.indexOf("<", 1);
    this.pending = next < 0 ? "" : text.slice(next);
  }

  private openValue(key: string, rest: string): void {
    const known = key === "" || this.keys.has(key);
    if (known) this.output.lost();
    const lead = this.keys.size === 0 ? "{" : ",";
    this.value = new Value(key, known ? undefined : lead, parameterTypes(this.tool, key));
    if (!known) this.keys.add(key);
    this.state = "value";
    this.pending = rest;
  }

  private takeValue(): void {
    const end = this.pending.indexOf(PARAMETER_END);
    if (end >= 0) {
      const rest = this.pending.slice(end + PARAMETER_END.length);
      this.endValue(this.pending.slice(0, end));
      this.state = "parameters";
      this.pending = rest;
      return;
    }
    const certain = this.pending.length - heldLength(this.pending);
    this.value?.write(this.pending.slice(0, certain), this.output);
    this.pending = this.pending.slice(certain);
  }

  private endValue(text: string): void {
    this.value?.end(text, this.output);
    this.value = undefined;
    this.pending = "";
  }

  private closeFunction(): void {
    if (this.state !== "after") this.output.write(this.keys.size === 0 ? "{}" : "}");
    this.state = "after";
    this.value = undefined;
  }

  /** Behind a function nothing is expected; another function is another call. */
  private takeAfter(): void {
    const text = this.pending.trimStart();
    this.pending = text;
    if (text.startsWith(FUNCTION)) {
      this.keys.clear();
      this.state = "head";
    } else if (!FUNCTION.startsWith(text)) {
      this.output.lost();
      const next = text.indexOf("<", 1);
      this.pending = next < 0 ? "" : text.slice(next);
    }
  }

  /** `{"name": ..., "arguments": {...}}` */
  private takeJsonCall(): string | undefined {
    const text = this.takePending();
    const call = jsonCall(text);
    if (call === undefined) return text;
    this.name = call.name;
    this.state = "after";
    this.output.begin(call.name);
    this.output.write(call.arguments);
    return undefined;
  }

  private takePending(): string {
    const { pending } = this;
    this.pending = "";
    return pending;
  }
}

/** The value of one parameter on its way to JSON. */
class Value {
  readonly key: string;
  /** What stands before the key; undefined: the value is for nobody. */
  private readonly lead: string | undefined;
  private readonly types: ReadonlySet<string> | undefined;
  private text = "";
  private atStart = true;
  /** The string has been opened. */
  private open = false;

  constructor(key: string, lead: string | undefined, types: ReadonlySet<string> | undefined) {
    this.key = key;
    this.lead = lead;
    this.types = types;
  }

  write(text: string, output: CallOutput): void {
    this.take(text);
    if (this.lead === undefined) {
      this.text = "";
      return;
    }
    // a text that may still become the word null waits
    const waits = this.text.length <= 4 && "null".startsWith(this.text.toLowerCase());
    if (!isText(this.types) || (!this.open && waits)) return;
    const opening = this.open ? "" : `${this.lead}${JSON.stringify(this.key)}:"`;
    this.open = true;
    if (this.text !== "") output.write(opening + JSON.stringify(this.text).slice(1, -1));
    this.text = "";
  }

  end(text: string, output: CallOutput): void {
    this.take(text.endsWith("\n") ? text.slice(0, -1) : text);
    if (this.lead === undefined) return;
    if (this.open) output.write(`${JSON.stringify(this.text).slice(1, -1)}"`);
    else output.write(`${this.lead}${JSON.stringify(this.key)}:${jsonOfValue(this.text, this.types)}`);
  }

  /** The first line break only separates the value from its tag. */
  private take(text: string): void {
    if (text === "") return;
    this.text += this.atStart && text.startsWith("\n") ? text.slice(1) : text;
    this.atStart = false;
  }
}

/** Units at the end that may belong to the end of a value. */
function heldLength(text: string): number {
  const closed = /\n?<\/function>\s*$/.exec(text.slice(-64));
  if (closed) return closed[0].length;
  const at = text.lastIndexOf("<", text.length);
  const tail = at < 0 || text.length - at > PARAMETER_END.length ? "" : text.slice(at);
  const tagged = tail !== "" && (PARAMETER_END.startsWith(tail) || FUNCTION_END.startsWith(tail));
  const from = tagged ? at : text.length;
  return text.length - (text[from - 1] === "\n" ? from - 1 : from);
}

/** A value that `</tool_call>` ended, without the function's end that may stand before it. */
function withoutFunctionEnd(text: string): string {
  return text.replace(/<\/function>\s*$/, "");
}

function jsonCall(text: string): { readonly name: string; readonly arguments: string } | undefined {
  const value = parsed(text);
  if (typeof value !== "object" || value === null || !("name" in value)) return undefined;
  const { name } = value;
  if (typeof name !== "string" || !/^[^\s<>]{1,256}$/.test(name)) return undefined;
  const given = "arguments" in value ? value.arguments : "parameters" in value ? value.parameters : {};
  const args = (typeof given === "string" ? parsed(given) : given) ?? {};
  return typeof args === "object" ? { name, arguments: JSON.stringify(args) } : undefined;
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    // not JSON, so no call in this form
    return undefined;
  }
}
