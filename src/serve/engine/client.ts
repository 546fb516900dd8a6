import { PsionicError } from "../../core/error.ts";
import { type ConstraintSource, rememberProgram } from "../grammar/index.ts";
import type {
  Engine,
  EngineInfo,
  EngineOptions,
  EngineStats,
  ExpectedPrompt,
  GenerateEvent,
  GenerateRequest,
  RequestConstraint,
  TokenIds,
} from "../protocol.ts";
import { checkRequest } from "./active_request.ts";
import { EventStream } from "./event_stream.ts";
import { FirstTokenWatch } from "./first_token.ts";
import { allocateLink, errorFrom, LinkEnd, type Message } from "./link.ts";
import { type Command, type LoadProgress, type Report, statFields, type WorkerStart } from "./messages.ts";
import { samplingSettings } from "./sampling_settings.ts";

export type OnProgress = (progress: LoadProgress) => void;
/** Told what a user should know of while the engine runs, in a sentence. */
export type OnWarning = (message: string) => void;

/** Starts the engine in its worker and loads the model; rejects with the typed error that loading ended in. */
export function startEngine(
  options: EngineOptions,
  onProgress?: OnProgress,
  onWarning?: OnWarning,
): Promise<EngineClient> {
  // In the executable, extra entry points keep their path below src/ and are named relative to it.
  const entry = Bun.isStandaloneExecutable
    ? "./serve/engine/worker.ts"
    : new URL("./worker.ts", import.meta.url);
  return startWorker(entry, options, onProgress, onWarning);
}

/** `startEngine` with another worker file. */
export async function startWorker(
  entry: string | URL,
  options: EngineOptions,
  onProgress: OnProgress = () => {},
  onWarning: OnWarning = () => {},
): Promise<EngineClient> {
  const link = allocateLink();
  const stats = new SharedArrayBuffer(statFields.length * 8);
  // without env a worker has the environment that the process began with; smol: garbage of requests is collected sooner
  const worker = new Worker(entry, { smol: true, env: process.env as Record<string, string> });
  const client = new EngineClient(worker, new LinkEnd(link, "main"), new Float64Array(stats), {
    onProgress,
    onWarning,
  });
  worker.postMessage({ options, link, stats } satisfies WorkerStart);
  await client.ready;
  return client;
}

type Told = { readonly onProgress: OnProgress; readonly onWarning: OnWarning };

const workerEnded = "[engine] expected a running engine, got a worker that ended. Restart the server";

/** The engine as the main thread sees it: requests go to the worker, events come back, nothing here computes. */
export class EngineClient implements Engine {
  /** Resolves when the model is loaded. */
  readonly ready: Promise<void>;
  private readonly worker: Worker;
  private readonly link: LinkEnd;
  private readonly counters: Float64Array;
  private readonly told: Told;
  private readonly streams = new Map<number, EventStream>();
  /** Requests of which nobody waits for a token. */
  private readonly rehearsed = new Set<number>();
  private readonly firstToken = new FirstTokenWatch(() => this.link.bell() !== this.seen && this.takeIn());
  private readonly loaded = Promise.withResolvers<void>();
  private readonly ended = Promise.withResolvers<void>();
  /** The bell's count before the last look. */
  private seen = 0;
  private facts: EngineInfo | undefined;
  private nextId = 1;
  /** The prompt that the worker was told of last, until a request is submitted. */
  private expected: TokenIds | undefined;
  /** The worker has the vocabulary that grammars are about. */
  private knowsVocabulary = false;
  /** Programs that the worker has. */
  private readonly programs = new Map<string, true>();
  private state: "running" | "closing" | "closed" | "broken" = "running";
  failure: PsionicError | undefined;

  constructor(worker: Worker, link: LinkEnd, counters: Float64Array, told: Told) {
    this.worker = worker;
    this.link = link;
    this.counters = counters;
    this.told = told;
    this.ready = this.loaded.promise;
    worker.addEventListener("error", (event) => {
      const message = `[engine] expected a running worker, got ${event.message}`;
      this.break(new PsionicError("internal", message));
    });
    worker.addEventListener("close", () => this.break(new PsionicError("internal", workerEnded)));
    void this.pump();
  }

  get info(): EngineInfo {
    if (!this.facts)
      throw new PsionicError("internal", "[engine] expected a loaded model, got one still loading");
    return this.facts;
  }

  generate(
    request: GenerateRequest,
    signal?: AbortSignal,
    choiceSignals: readonly AbortSignal[] = [],
  ): AsyncIterable<GenerateEvent> {
    const id = this.nextId++;
    const listening = new AbortController();
    const onAbort = (from: AbortSignal, choice?: number) => {
      const cancel = () =>
        this.send(choice === undefined ? { type: "cancel", id } : { type: "cancel", id, choice });
      if (from.aborted) cancel();
      else from.addEventListener("abort", cancel, { once: true, signal: listening.signal });
    };
    const stream: EventStream = new EventStream({
      open: () => {
        if (signal?.aborted)
          throw new PsionicError("cancelled", "[engine] expected a wanted request, got an aborted one");
        this.submit(id, request);
        if (request.rehearsal) this.rehearsed.add(id);
        this.streams.set(id, stream);
        if (signal) onAbort(signal);
        choiceSignals.forEach(onAbort);
      },
      close: (left) => {
        listening.abort();
        this.streams.delete(id);
        this.rehearsed.delete(id);
        if (left) this.send({ type: "cancel", id });
      },
    });
    return stream;
  }

  expect(coming?: ExpectedPrompt): void {
    if (this.state !== "running") return;
    if (!coming || coming.prompt.length >= this.info.contextLength) {
      this.link.announce();
      return;
    }
    const { prompt, tenant } = coming;
    this.expected = prompt;
    this.send({ type: "expect", ...(tenant === undefined ? {} : { tenant }) }, numbersOf(prompt));
  }

  stats(): EngineStats {
    const values = statFields.map((field, i) => [field, this.counters[i]!] as const);
    return Object.fromEntries(values) as EngineStats;
  }

  async close(force = false): Promise<void> {
    if (this.state === "running") {
      this.state = "closing";
      this.send({ type: "close" });
    }
    if (force) for (const id of [...this.streams.keys()]) this.send({ type: "cancel", id });
    await this.ended.promise;
    this.worker.terminate();
  }

  private submit(id: number, request: GenerateRequest): void {
    if (this.failure) throw this.failure;
    if (this.state !== "running") {
      throw new PsionicError("cancelled", "[engine] expected a running engine, got one that is closing");
    }
    const { contextLength, model } = this.info;
    checkRequest(request, { contextLength, vocabularySize: model.vocabularySize });
    samplingSettings(request.sampling, model.vocabularySize);
    const { prompt, constraint, ...rest } = request;
    // JSON has no infinity
    const logitBias = request.sampling.logitBias?.map(
      ([token, bias]) => [token, Math.max(bias, -1e9)] as const,
    );
    const sampling = logitBias ? { ...request.sampling, logitBias } : request.sampling;
    const sent = { ...rest, sampling, ...(constraint ? { constraint: this.sendable(constraint) } : {}) };
    const expected = prompt === this.expected;
    this.expected = undefined;
    if (expected) this.send({ type: "submit", id, request: sent, expected });
    else this.send({ type: "submit", id, request: sent }, numbersOf(prompt));
  }

  /** The part of a constraint that travels each time; what the worker has not got goes before it. */
  private sendable({ vocabulary, program, ...source }: RequestConstraint): ConstraintSource {
    if (!this.knowsVocabulary) this.send({ type: "vocabulary" }, vocabulary());
    this.knowsVocabulary = true;
    const { digest } = source;
    if (!this.programs.has(digest)) {
      this.send({ type: "grammar", digest }, program);
      rememberProgram(this.programs, digest, true);
    }
    return source;
  }

  private send(command: Command, numbers?: Int32Array): void {
    if (this.state !== "closed" && this.state !== "broken") this.link.send(command, numbers);
  }

  /** Handles what the worker reports, for as long as it lives. */
  private async pump(): Promise<void> {
    while (this.state !== "closed" && this.state !== "broken") {
      this.takeIn();
      await this.link.wait(this.seen);
    }
  }

  /** Handles what has come; gives whether something had. */
  private takeIn(): boolean {
    this.seen = this.link.bell();
    try {
      const messages = this.link.receive();
      for (const message of messages) this.handle(message);
      return messages.length > 0;
    } catch (error) {
      this.break(new PsionicError("internal", `[engine link] expected a report, got ${error}`, {}, error));
      return true;
    }
  }

  private handle({ body }: Message): void {
    const report = body as Report;
    switch (report.type) {
      case "events":
        for (const [id, event] of report.events) {
          this.streams.get(id)?.push(event);
          // a processor that computes the step has no core to spare
          if (this.facts?.device && !this.rehearsed.has(id))
            this.firstToken.notice(id, event, this.streams.size === 1);
        }
        break;
      case "failed":
        this.streams.get(report.id)?.fail(errorFrom(report.error));
        this.firstToken.failed(report.id);
        break;
      case "progress":
        this.told.onProgress(report.progress);
        break;
      case "warning":
        this.told.onWarning(report.message);
        break;
      case "ready":
        this.facts = report.info;
        this.loaded.resolve();
        break;
      case "digest":
        this.learn(({ model, ...rest }) => ({ ...rest, model: { ...model, digest: report.digest } }));
        break;
      case "noDigest":
        this.learn((info) => ({ ...info, notes: [...(info.notes ?? []), report.error.message] }));
        break;
      case "broken":
        this.break(errorFrom(report.error));
        break;
      case "closed":
        this.state = "closed";
        this.ended.resolve();
        this.link.wake();
        break;
    }
  }

  private learn(change: (info: EngineInfo) => EngineInfo): void {
    if (this.facts) this.facts = change(this.facts);
  }

  /** The worker is gone or cannot go on: everyone who waits learns why. */
  private break(error: PsionicError): void {
    if (this.state === "closed" || this.state === "broken") return;
    this.state = "broken";
    this.failure = error;
    this.loaded.reject(error);
    for (const stream of [...this.streams.values()]) stream.fail(error);
    this.ended.resolve();
    this.worker.terminate();
    this.link.wake();
  }
}

/** Ids as the link sends them; a list that is one already is sent as it is, since nobody writes to prompts. */
function numbersOf(prompt: TokenIds): Int32Array {
  return prompt instanceof Int32Array ? prompt : Int32Array.from(prompt);
}
