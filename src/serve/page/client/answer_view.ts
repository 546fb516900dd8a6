import type { AnswerTurn, ToolCall } from "./conversation.ts";
import { element, icon } from "./elements.ts";
import { count, duration, plural, rate } from "./format.ts";
import { MarkdownView } from "./markdown_view.ts";

/** One answer on the page while it is written and after. */
export class AnswerView {
  readonly node: HTMLElement;
  /** Where buttons for this answer go. */
  readonly actions: HTMLElement;
  private readonly text: MarkdownView;
  private readonly waiting: HTMLElement;
  private readonly waitingFor = element("span");
  private readonly thoughts: HTMLDetailsElement;
  private readonly thoughtsText: HTMLElement;
  private readonly thoughtsLabel: HTMLElement;
  private readonly calls: HTMLElement;
  private readonly trouble: HTMLElement;
  private readonly figures: HTMLElement;

  constructor(turn: AnswerTurn) {
    this.waiting = element("p", { class: "waiting" }, element("span", { class: "dots" }), this.waitingFor);
    this.thoughtsLabel = element("span", {}, "Reasoning");
    this.thoughtsText = element("div", { class: "thoughts-text", dir: "auto" });
    this.thoughts = element(
      "details",
      { class: "thoughts", hidden: true },
      element("summary", {}, icon("chevron"), this.thoughtsLabel),
      this.thoughtsText,
    );
    const text = element("div", { class: "markdown" });
    this.text = new MarkdownView(text);
    this.calls = element("div", { class: "calls" });
    this.trouble = element("div", { class: "trouble", hidden: true });
    this.figures = element("p", { class: "figures" });
    this.actions = element("div", { class: "actions" });
    this.node = element(
      "article",
      { class: "turn answer", "aria-label": `Answer of ${turn.model || "the model"}` },
      ...[this.waiting, this.thoughts, text, this.calls, this.trouble],
      element("footer", {}, this.figures, this.actions),
    );
  }

  /** Says what happens until the first piece is there. */
  wait(text: string): void {
    this.waitingFor.textContent = text;
  }

  /** Shows the answer as it stands; `elapsedMs` and `pieces` while it is being written. */
  update(turn: AnswerTurn, writing?: { readonly elapsedMs: number; readonly pieces: number }): void {
    const begun = turn.text !== "" || turn.reasoning !== "" || turn.toolCalls.length > 0;
    this.node.ariaBusy = writing ? "true" : "false";
    this.node.classList.toggle("writing", writing !== undefined && begun);
    this.waiting.hidden = writing === undefined || begun;
    this.showThoughts(turn, writing !== undefined);
    this.text.update(turn.text);
    this.showCalls(turn.toolCalls);
    this.figures.textContent = writing ? progress(writing) : summary(turn);
    this.showTrouble(turn);
  }

  private showThoughts({ reasoning, text, toolCalls }: AnswerTurn, writing: boolean): void {
    this.thoughts.hidden = reasoning === "";
    if (reasoning === "") return;
    const thinking = writing && text === "" && toolCalls.length === 0;
    this.thoughtsLabel.textContent = thinking ? "Reasoning…" : "Reasoning";
    this.thoughts.classList.toggle("thinking", thinking);
    if (this.thoughtsText.textContent !== reasoning) this.thoughtsText.textContent = reasoning;
  }

  private showCalls(calls: readonly ToolCall[]): void {
    calls.forEach((call, i) => {
      const shown = this.calls.children[i] ?? this.calls.appendChild(callNode());
      const [name, code] = [shown.querySelector(".name")!, shown.querySelector("code")!];
      name.textContent = call.name;
      const text = readable(call.arguments);
      if (code.textContent !== text) code.textContent = text;
    });
  }

  private showTrouble({ error, finish }: AnswerTurn): void {
    const message = error ? error.message : noteOf(finish);
    this.trouble.hidden = message === undefined;
    this.trouble.classList.toggle("error", error !== undefined);
    if (message === undefined) return;
    const facts = [error?.code, error?.requestId].filter((fact) => fact !== undefined).join(" · ");
    this.trouble.replaceChildren(
      icon(error ? "warning" : "info"),
      element(
        "div",
        {},
        element("p", {}, message),
        facts === "" ? undefined : element("p", { class: "facts" }, facts),
      ),
    );
  }
}

function callNode(): HTMLElement {
  return element(
    "details",
    { class: "call", open: true },
    element("summary", {}, icon("tool"), "Calls ", element("b", { class: "name" })),
    element("pre", { tabindex: "0", role: "region", "aria-label": "Arguments" }, element("code")),
  );
}

/** Arguments with line breaks once they are whole. */
export function readable(json: string): string {
  try {
    return JSON.stringify(JSON.parse(json), null, 2);
  } catch {
    return json;
  }
}

function noteOf(finish: string | undefined): string | undefined {
  if (finish === "length") return "The answer was cut at its token limit or the end of the context.";
  if (finish === "content_filter") return "The answer was ended by a filter.";
  return undefined;
}

/** A piece is a token nearly always, but the server may hold some back and send them together: hence the sign. */
function progress({ elapsedMs, pieces }: { readonly elapsedMs: number; readonly pieces: number }): string {
  const parts = [duration(elapsedMs)];
  if (pieces > 1) parts.push(`≈ ${plural(pieces, "token")}`);
  return parts.join(" · ");
}

function summary({ figures, stopped, finish }: AnswerTurn): string {
  const parts: string[] = stopped ? ["Stopped"] : [];
  if (figures) {
    const { usage, times } = figures;
    const tokens = usage.completion_tokens;
    parts.push(plural(tokens, "token"));
    if (times?.itl_ms) parts.push(`${rate(1000 / times.itl_ms)} tok/s`);
    if (times?.ttft_ms) parts.push(`first after ${duration(times.ttft_ms)}`);
    const cached = usage.prompt_tokens_details?.cached_tokens ?? 0;
    parts.push(`prompt ${count(usage.prompt_tokens)}${cached > 0 ? `, ${count(cached)} cached` : ""}`);
  }
  if (finish === "tool_calls") parts.push("waits for results");
  return parts.join(" · ");
}
