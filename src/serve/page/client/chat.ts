import { AnswerView } from "./answer_view.ts";
import { ApiError, streamChat } from "./api.ts";
import {
  type AnswerTurn,
  awaitsResults,
  emptyAnswer,
  readTurns,
  requestBody,
  type ShownError,
  type Times,
  type ToolTurn,
  type Turn,
  take,
} from "./conversation.ts";
import { button, byId, copy, element } from "./elements.ts";
import { plural } from "./format.ts";
import { confirm } from "./markdown_view.ts";
import type { Settings } from "./settings.ts";
import { remember, rememberedJson } from "./storage.ts";
import { resultForm } from "./tool_results.ts";

export type ChatOptions = {
  readonly settings: () => Settings;
  readonly model: () => string;
  /** What the server is doing until the first piece comes. */
  readonly waiting: () => string;
  /** Says something to those who listen instead of looking. */
  readonly announce: (text: string) => void;
  /** An answer begins or has ended. */
  readonly onWriting: (writing: boolean) => void;
  /** Puts text into the message box. */
  readonly edit: (text: string) => void;
  /** The server wants a key; resolves when there is one, or with false. */
  readonly askKey: (message: string) => Promise<boolean>;
};

const storedName = "conversation";

/** The conversation: its turns, how they look, and the answer that is being written. */
export class Chat {
  private readonly options: ChatOptions;
  private readonly log = byId("log");
  private readonly list = byId("turns");
  private readonly empty = byId("empty");
  private readonly latest = byId<HTMLButtonElement>("latest");
  private turns: Turn[] = [];
  /** What is on the page already stays: focus, selection and opened parts survive. */
  private readonly nodes = new WeakMap<Turn, HTMLElement>();
  private readonly views = new WeakMap<Turn, AnswerView>();
  private writing: AbortController | undefined;
  /** Follows the text as it grows, until the person scrolls up. */
  private following = true;

  constructor(options: ChatOptions) {
    this.options = options;
    // scrolls, so the keyboard must reach it
    this.log.tabIndex = 0;
    this.turns = readTurns(rememberedJson("tab", storedName));
    this.log.addEventListener("scroll", () => this.noteScroll(), { passive: true });
    this.latest.addEventListener("click", () => this.follow());
    new ResizeObserver(() => this.keepUp()).observe(this.list);
    this.draw();
  }

  get isWriting(): boolean {
    return this.writing !== undefined;
  }

  /** Adds what the person said and asks for an answer. */
  send(text: string): void {
    if (this.writing) return;
    this.turns.push({ role: "user", text });
    this.draw();
    void this.answer();
  }

  stop(): void {
    this.writing?.abort();
  }

  /** Forgets everything that was said. */
  clear(): void {
    this.stop();
    this.turns = [];
    this.draw();
    this.options.announce("The conversation is cleared.");
  }

  private regenerate(): void {
    if (this.writing || this.turns.at(-1)?.role !== "assistant") return;
    this.turns.pop();
    this.draw();
    void this.answer();
  }

  private editFrom(place: number): void {
    const turn = this.turns[place];
    if (this.writing || turn?.role !== "user") return;
    this.turns = this.turns.slice(0, place);
    this.draw();
    this.options.edit(turn.text);
  }

  private sendResults(results: readonly ToolTurn[]): void {
    if (this.writing) return;
    this.turns.push(...results);
    this.draw();
    void this.answer();
  }

  private async answer(): Promise<void> {
    const { settings, model, announce, onWriting } = this.options;
    const writing = new AbortController();
    this.writing = writing;
    const turn = emptyAnswer(model());
    const body = requestBody(this.turns, settings(), turn.model);
    const view = this.viewOf(turn);
    view.wait(this.options.waiting());
    this.turns.push(turn);
    this.list.append(view.node);
    this.follow();
    onWriting(true);
    announce("The answer is being written.");
    const failed = await this.write(body, turn, view, writing.signal);
    // cleared, or answered anew, meanwhile
    if (this.writing === writing) this.writing = undefined;
    onWriting(this.isWriting);
    if (this.turns.at(-1) !== turn) return;
    if (failed?.status === 401 && (await this.options.askKey(failed.message))) return this.regenerate();
    this.draw();
    announce(spoken(turn));
  }

  /** Reads the stream into the turn. Never throws; gives the error that ended it. */
  private async write(
    body: object,
    turn: AnswerTurn,
    view: AnswerView,
    signal: AbortSignal,
  ): Promise<ApiError | undefined> {
    const startedAt = performance.now();
    let pieces = 0;
    let ended = false;
    const show = paced(() => {
      if (!ended) view.update(turn, { elapsedMs: performance.now() - startedAt, pieces });
    });
    const ticking = setInterval(show, 500);
    show();
    try {
      const stream = await streamChat(body, signal);
      for await (const piece of stream.pieces) {
        take(turn, piece);
        if (piece.type === "usage") turn.figures = { usage: piece.usage, requestId: stream.requestId };
        else if (piece.type !== "finish") pieces += 1;
        show();
      }
    } catch (thrown) {
      if (!signal.aborted) {
        turn.error = shownError(thrown);
        return thrown instanceof ApiError ? thrown : undefined;
      }
      turn.stopped = true;
    } finally {
      clearInterval(ticking);
      ended = true;
    }
    return undefined;
  }

  /** Adds the times of the server's log to the answers that they belong to. */
  addTimes(log: readonly (Times & { readonly request_id: string; readonly state: string })[]): void {
    for (const turn of this.turns) {
      if (turn.role !== "assistant" || !turn.figures || turn.figures.times) continue;
      const { figures } = turn;
      const row = log.find(({ request_id, state }) => request_id === figures.requestId && state === "done");
      if (row === undefined) continue;
      turn.figures = { ...figures, times: { ttft_ms: row.ttft_ms, itl_ms: row.itl_ms } };
      this.viewOf(turn).update(turn);
    }
  }

  private viewOf(turn: AnswerTurn): AnswerView {
    const view = this.views.get(turn) ?? new AnswerView(turn);
    this.views.set(turn, view);
    return view;
  }

  /** Shows the turns as they are, and keeps them for a reload. */
  private draw(): void {
    remember("tab", storedName, this.turns.length === 0 ? undefined : JSON.stringify(this.turns));
    this.empty.hidden = this.turns.length > 0;
    const nodes = this.turns.map((turn, place) => {
      if (turn.role === "assistant") return this.answerNode(turn, place === this.turns.length - 1);
      const node =
        this.nodes.get(turn) ?? (turn.role === "user" ? this.userNode(turn.text, place) : toolNode(turn));
      this.nodes.set(turn, node);
      return node;
    });
    const last = this.turns.at(-1);
    if (last?.role === "assistant" && awaitsResults(this.turns)) {
      nodes.push(resultForm(last.toolCalls, (results) => this.sendResults(results)));
    }
    nodes.forEach((node, i) => {
      if (this.list.children[i] !== node) this.list.insertBefore(node, this.list.children[i] ?? null);
    });
    while (this.list.children.length > nodes.length) this.list.lastElementChild?.remove();
    this.keepUp();
  }

  private answerNode(turn: AnswerTurn, last: boolean): HTMLElement {
    const view = this.viewOf(turn);
    view.update(turn);
    view.actions.replaceChildren();
    if (turn.text !== "") view.actions.append(copyButton(turn.text));
    if (last) {
      const label = turn.error ? "Try again" : "Answer again";
      const again = button(label, "again", () => this.regenerate(), { shown: turn.error !== undefined });
      view.actions.append(again);
    }
    return view.node;
  }

  private userNode(text: string, place: number): HTMLElement {
    const edit = button("Edit and send again", "edit", () => this.editFrom(place));
    return element(
      "article",
      { class: "turn user", "aria-label": "You" },
      element("div", { class: "bubble", dir: "auto" }, text),
      element("div", { class: "actions" }, copyButton(text), edit),
    );
  }

  private noteScroll(): void {
    const { scrollTop, scrollHeight, clientHeight } = this.log;
    this.following = scrollHeight - scrollTop - clientHeight < 48;
    this.latest.hidden = this.following;
  }

  private follow(): void {
    this.following = true;
    this.keepUp();
  }

  private keepUp(): void {
    if (this.following) this.log.scrollTop = this.log.scrollHeight;
    this.latest.hidden = this.following;
  }
}

function copyButton(text: string): HTMLButtonElement {
  const made = button("Copy", "copy", () => {
    void copy(text).then((done) => confirm(made, done));
  });
  return made;
}

function toolNode({ name, text }: ToolTurn): HTMLElement {
  return element(
    "article",
    { class: "turn result", "aria-label": `Result of ${name}` },
    element(
      "details",
      { class: "call" },
      element("summary", {}, "Result of ", element("b", {}, name)),
      element("pre", { tabindex: "0" }, text),
    ),
  );
}

function shownError(thrown: unknown): ShownError {
  if (!(thrown instanceof ApiError))
    return { message: thrown instanceof Error ? thrown.message : String(thrown) };
  const { message, code, requestId } = thrown;
  return {
    message,
    ...(code === undefined ? {} : { code }),
    ...(requestId === undefined ? {} : { requestId }),
  };
}

function spoken(turn: AnswerTurn): string {
  if (turn.error) return `The answer failed: ${turn.error.message}`;
  if (turn.stopped) return "The answer was stopped.";
  if (turn.toolCalls.length > 0) return `The model calls ${plural(turn.toolCalls.length, "tool")}.`;
  return `Answer: ${turn.text.slice(0, 2000)}`;
}

/** Runs `act` at most once a frame, and less often when it takes long. */
function paced(act: () => void): () => void {
  let planned = false;
  let notBefore = 0;
  const run = (): void => {
    planned = false;
    const began = performance.now();
    act();
    const took = performance.now() - began;
    notBefore = performance.now() + took * 4;
  };
  return () => {
    if (planned) return;
    planned = true;
    const wait = notBefore - performance.now();
    if (wait > 16) setTimeout(run, wait);
    else requestAnimationFrame(run);
  };
}
