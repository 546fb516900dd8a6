/** Where the next character of the arguments belongs. */
type State =
  | { readonly at: "key" | "value" | "next" | "done" }
  /** Characters that are understood when they are complete. */
  | { readonly at: "bare"; readonly key: boolean }
  /** Between two `<|"|>`, written as it comes. */
  | { readonly at: "string" }
  | { readonly at: "quoted"; readonly key: boolean; readonly end: '"' | "'" | "mark" };

/**
 * Turns arguments in Gemma 4's notation, from behind their first `{`, into JSON as they come. Whatever comes, the JSON
 * is valid once `close` was called: missing ends are added, values without quotes become strings, the rest is lost.
 */
export class Gemma4Arguments {
  private readonly lost: () => void;
  private readonly stack: ("object" | "array")[] = ["object"];
  private state: State = { at: "key" };
  /** Characters of a name, a bare value or a quoted one. */
  private held = "";
  private escaped = false;
  /** A value has been written at this depth. */
  private readonly filled: boolean[] = [false];
  private out = "{";

  constructor(lost: () => void) {
    this.lost = lost;
  }

  get isDone(): boolean {
    return this.state.at === "done";
  }

  /** Between two marks of a string, where anything may stand. */
  get inString(): boolean {
    return this.state.at === "string" || (this.state.at === "quoted" && this.state.end === "mark");
  }

  /** JSON that is certain after this text. */
  add(text: string): string {
    let from = 0;
    while (from < text.length) {
      if (this.state.at === "string") {
        this.out += escaped(text.slice(from));
        break;
      }
      const character = String.fromCodePoint(text.codePointAt(from)!);
      from += character.length;
      this.take(character);
    }
    return this.takeOut();
  }

  /** `<|"|>` */
  quote(): string {
    const { state } = this;
    if (state.at === "string") this.endValue('"');
    else if (state.at === "quoted" && state.end === "mark") this.endQuoted(state.key);
    else if (state.at === "value") {
      this.beginValue('"');
      this.state = { at: "string" };
    } else if (state.at === "key" || (state.at === "next" && this.top === "object")) {
      if (state.at === "next") this.lost();
      this.state = { at: "quoted", key: true, end: "mark" };
    } else if (state.at === "next") {
      // a comma is missing
      this.lost();
      this.beginValue('"');
      this.state = { at: "string" };
    } else if (state.at === "quoted") this.held += '"';
    else this.lost();
    return this.takeOut();
  }

  /** The call ends; adds what is missing. */
  close(): string {
    const { state } = this;
    if (state.at === "done") return this.takeOut();
    if (state.at === "string") this.endValue('"');
    else if (state.at === "bare") this.endBare(false);
    else if (state.at === "quoted") this.endQuoted(state.key);
    else if (state.at === "value" && this.top === "object") this.beginValue("null");
    this.lost();
    while (this.stack.length > 0) this.out += this.stack.pop() === "array" ? "]" : "}";
    this.state = { at: "done" };
    return this.takeOut();
  }

  private get top(): "object" | "array" | undefined {
    return this.stack.at(-1);
  }

  private take(character: string): void {
    const { state } = this;
    switch (state.at) {
      case "quoted":
        this.takeQuoted(character, state.key, state.end);
        break;
      case "bare":
        if (state.key ? ":,}".includes(character) : ",}]".includes(character)) {
          this.endBare(state.key && character === ":");
          // the colon is the name's; other ends are looked at again
          if (!(state.key && character === ":")) this.take(character);
        } else this.held += character;
        break;
      case "string":
        this.out += escaped(character);
        break;
      default:
        if (/\s/.test(character)) return;
        if (state.at === "key") this.takeKey(character);
        else if (state.at === "value") this.takeValue(character);
        else if (state.at === "next") this.takeNext(character);
        else this.lost();
    }
  }

  private takeKey(character: string): void {
    if (character === "}") this.closeTop();
    else if (character === ",") this.lost();
    else if (character === '"' || character === "'") {
      this.state = { at: "quoted", key: true, end: character };
    } else {
      this.held = character === ":" ? "" : character;
      this.state = { at: "bare", key: true };
      if (character === ":") this.endBare(true);
    }
  }

  private takeValue(character: string): void {
    if (character === "{" || character === "[") {
      this.beginValue(character);
      this.stack.push(character === "{" ? "object" : "array");
      this.filled.push(false);
      this.state = { at: character === "{" ? "key" : "value" };
    } else if (character === '"' || character === "'") {
      this.state = { at: "quoted", key: false, end: character };
    } else if (",]}".includes(character)) {
      // an array may be empty or end in a comma; elsewhere the value is missing
      if (this.top === "object" || character === ",") {
        this.lost();
        this.beginValue("null");
      }
      this.state = { at: "next" };
      this.takeNext(character);
    } else {
      this.held = character;
      this.state = { at: "bare", key: false };
    }
  }

  private takeNext(character: string): void {
    const { top } = this;
    if (character === ",") this.state = { at: top === "array" ? "value" : "key" };
    else if (character === (top === "array" ? "]" : "}")) this.closeTop();
    else if (character === "}" && top === "array") {
      // the array's end is missing
      this.lost();
      this.closeTop();
      if (this.state.at === "next") this.takeNext(character);
    } else {
      this.lost();
      if (character === "]" || character === ":") return;
      this.state = { at: top === "array" ? "value" : "key" };
      this.take(character);
    }
  }

  private takeQuoted(character: string, key: boolean, end: '"' | "'" | "mark"): void {
    if (character === end && !this.escaped) {
      this.endQuoted(key);
      return;
    }
    this.held += character;
    this.escaped = end !== "mark" && character === "\\" && !this.escaped;
  }

  private endQuoted(key: boolean): void {
    const { state } = this;
    const text = state.at === "quoted" && state.end === "mark" ? this.held : unescaped(this.held);
    this.held = "";
    this.escaped = false;
    if (!key) {
      this.beginValue(JSON.stringify(text));
      return;
    }
    // what follows up to the colon is part of no name
    this.held = text;
    this.state = { at: "bare", key: true };
  }

  /** `complete`: of a name, whether its colon came. */
  private endBare(complete: boolean): void {
    const { state } = this;
    const text = this.held.trim();
    this.held = "";
    if (state.at === "bare" && state.key) {
      if (complete) {
        this.out += `${this.comma()}${JSON.stringify(text)}:`;
        this.state = { at: "value" };
      } else {
        this.lost();
        this.state = { at: "next" };
      }
      return;
    }
    this.beginValue(jsonOfBare(text));
  }

  /** Writes a value, or what opens it; the name of a member stands there already. */
  private beginValue(json: string): void {
    this.out += this.top === "array" ? this.comma() + json : json;
    this.state = { at: "next" };
  }

  private endValue(json: string): void {
    this.out += json;
    this.state = { at: "next" };
  }

  private comma(): string {
    const last = this.filled.length - 1;
    const comma = this.filled[last] ? "," : "";
    this.filled[last] = true;
    return comma;
  }

  private closeTop(): void {
    this.out += this.stack.pop() === "array" ? "]" : "}";
    this.filled.pop();
    this.state = { at: this.stack.length === 0 ? "done" : "next" };
  }

  private takeOut(): string {
    const { out } = this;
    this.out = "";
    return out;
  }
}

function escaped(text: string): string {
  return JSON.stringify(text).slice(1, -1);
}

/** The text between quotes of the usual kind. */
function unescaped(text: string): string {
  if (!text.includes("\\")) return text;
  try {
    return String(JSON.parse(`"${text.replace(/\\'/g, "'").replace(/\n/g, "\\n")}"`));
  } catch {
    // escapes that JSON does not have stay as they are
    return text;
  }
}

function jsonOfBare(text: string): string {
  if (/^(?:true|false|null)$/i.test(text)) return text.toLowerCase();
  if (text === "None") return "null";
  if (/^-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?$/.test(text)) return text;
  if (/^[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?$/.test(text)) {
    const value = Number(text);
    if (Number.isFinite(value)) return String(value);
  }
  return JSON.stringify(text);
}
