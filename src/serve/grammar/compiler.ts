import { sha256 } from "../../core/digest.ts";
import { PsionicError, unexpected } from "../../core/error.ts";
import { errorFrom } from "../engine/link.ts";
import { FairQueue } from "../engine/queue.ts";
import { refused, withField } from "./refusal.ts";
import type { CompiledTask, GrammarTask } from "./task.ts";
import type { CompilerReply, CompilerRequest } from "./worker.ts";

/** A program and the name by which the engine keeps it. */
export type CompiledGrammar = CompiledTask & { readonly digest: string };

export type CompilerLimits = {
  /** A task that takes longer is given up, milliseconds. */
  readonly mostMs: number;
  /** Characters of a task as JSON. */
  readonly mostText: number;
  /** Tasks that wait. Beyond that the client with the most of them gives one up for another's, or is refused. */
  readonly mostWaiting: number;
  /** Threads at once. A client has all but one of them, so that no client's tasks keep those of others waiting. */
  readonly threads: number;
};

const usual: CompilerLimits = { mostMs: 10_000, mostText: 8 * 2 ** 20, mostWaiting: 256, threads: 3 };

/** Bytes of all programs that are kept; the one used longest ago goes first. */
const mostKept = 64 * 2 ** 20;

type Job = {
  readonly digest: string;
  readonly text: string;
  /** Field of the request that refusals name. */
  readonly field: string;
  readonly client: string;
  readonly result: PromiseWithResolvers<CompiledGrammar>;
  /** Requests that want it; without any it is dropped. */
  wanted: number;
};

type Thread = { readonly worker: Worker; job?: Job | undefined; timer?: Timer | undefined };

/**
 * Compiles grammars in threads of its own, so that no schema holds up the thread that calls it, which only writes a task as
 * text. Tasks are bounded in size and time, equal ones are compiled once, and what nobody waits for any more is stopped.
 */
export class GrammarCompiler {
  private readonly limits: CompilerLimits;
  private readonly kept = new Map<string, CompiledGrammar>();
  private keptBytes = 0;
  private readonly jobs = new Map<string, Job>();
  private readonly waiting = new FairQueue<Job>();
  private readonly threads = new Set<Thread>();
  private closed = false;

  constructor(limits: Partial<CompilerLimits> = {}) {
    this.limits = { ...usual, ...limits };
  }

  /**
   * The program of a task. Throws `unsupported` with the request's `field` where something is not served, too large or takes
   * too long. `client`: whose task it is; `signal`: aborted when it is not wanted any more.
   */
  async compile(task: GrammarTask, client: string, signal: AbortSignal): Promise<CompiledGrammar> {
    const text = JSON.stringify(task);
    const field = task.output?.field ?? "tools";
    const { mostText, mostWaiting } = this.limits;
    if (text.length > mostText)
      throw outOfBounds(field, `at most ${mostText} characters`, String(text.length));
    const digest = sha256(text);
    const known = this.kept.get(digest);
    if (known) return this.keep(known);
    if (this.closed || signal.aborted) throw cancelled();
    const job = this.jobs.get(digest);
    if (job) return this.result(job, signal);
    if (this.waiting.size >= mostWaiting) this.makeRoom(client);
    const made = {
      ...{ digest, text, field, client, wanted: 0 },
      result: Promise.withResolvers<CompiledGrammar>(),
    };
    this.jobs.set(digest, made);
    this.waiting.push(client, made);
    this.startNext();
    return this.result(made, signal);
  }

  /** Ends all threads; what is being compiled rejects as cancelled. */
  close(): void {
    this.closed = true;
    for (const job of [...this.jobs.values()]) this.end(job, cancelled());
    for (const thread of [...this.threads]) this.stop(thread);
  }

  /** Waits for a job; the last one who leaves ends it. */
  private async result(job: Job, signal: AbortSignal): Promise<CompiledGrammar> {
    job.wanted += 1;
    const left = Promise.withResolvers<never>();
    const leave = () => left.reject(cancelled());
    signal.addEventListener("abort", leave, { once: true });
    try {
      return await Promise.race([job.result.promise, left.promise]);
    } finally {
      signal.removeEventListener("abort", leave);
      job.wanted -= 1;
      if (job.wanted === 0) this.end(job, cancelled());
    }
  }

  /** A place in a full queue, of the client that has the most; throws where that is the one that asks. */
  private makeRoom(client: string): void {
    const { mostWaiting } = this.limits;
    const details = { maxQueue: mostWaiting };
    const full = unexpected("queue_full", "grammar", `fewer than ${mostWaiting} waiting`, mostWaiting, {
      details,
    });
    const most = this.waiting.lastOfMost();
    if (!most || this.waiting.sizeOf(client) + 1 >= this.waiting.sizeOf(most.client)) throw full;
    this.end(most.entry, full);
  }

  /** Gives waiting jobs to threads, clients in turns, each while it has not all but one of them. */
  private startNext(): void {
    const { threads } = this.limits;
    const most = Math.max(1, threads - 1);
    for (;;) {
      const busy = [...this.threads].flatMap(({ job }) => job ?? []);
      if (busy.length >= threads) return;
      const job = this.waiting.take((client) => busy.filter((one) => one.client === client).length < most);
      if (!job) return;
      const idle = [...this.threads].find((thread) => !thread.job);
      this.run(idle ?? this.start(), job);
    }
  }

  private start(): Thread {
    // in the executable, extra entry points keep their path below src/ and are named relative to it
    const entry = Bun.isStandaloneExecutable
      ? "./serve/grammar/worker.ts"
      : new URL("./worker.ts", import.meta.url);
    const worker = new Worker(entry, { smol: true, ref: false, env: process.env as Record<string, string> });
    const thread: Thread = { worker };
    worker.onmessage = ({ data }: MessageEvent<CompilerReply>) => this.finish(thread, data);
    worker.onerror = ({ message }) => this.fail(thread, message);
    // one that ends by itself takes no more tasks
    worker.addEventListener("close", () => this.fail(thread, "one that ended"));
    this.threads.add(thread);
    return thread;
  }

  private run(thread: Thread, job: Job): void {
    const { mostMs } = this.limits;
    thread.job = job;
    thread.timer = setTimeout(() => {
      this.end(
        job,
        outOfBounds(job.field, `one that is compiled within ${mostMs} ms`, "one that takes longer"),
      );
    }, mostMs);
    thread.worker.postMessage({ task: job.text } satisfies CompilerRequest);
  }

  private finish(thread: Thread, reply: CompilerReply): void {
    // what a thread said before it was stopped is of a job that has ended; another may have the same task by now
    if (!this.threads.has(thread)) return;
    const { job } = thread;
    clearTimeout(thread.timer);
    thread.job = undefined;
    // one idle thread is enough for what comes next
    if ([...this.threads].some((other) => other !== thread && !other.job)) this.stop(thread);
    if (job) {
      this.jobs.delete(job.digest);
      if ("error" in reply) job.result.reject(errorFrom(reply.error));
      else job.result.resolve(this.keep({ ...reply, digest: job.digest }));
    }
    this.startNext();
  }

  /** A thread that is of no more use; nothing where it was stopped here. */
  private fail(thread: Thread, why: string): void {
    if (!this.threads.has(thread)) return;
    const { job } = thread;
    this.stop(thread);
    if (job) this.end(job, new PsionicError("internal", `[grammar] expected a running thread, got ${why}`));
  }

  /** Ends a job that waits or runs; nothing where it has ended. A thread in the middle of one cannot be asked to stop. */
  private end(job: Job, error: PsionicError): void {
    if (this.jobs.get(job.digest) !== job) return;
    this.jobs.delete(job.digest);
    this.waiting.remove((one) => one === job);
    for (const thread of [...this.threads]) if (thread.job === job) this.stop(thread);
    // where the last one has left, nobody listens
    job.result.promise.catch(() => {});
    job.result.reject(error);
    if (!this.closed) this.startNext();
  }

  private stop(thread: Thread): void {
    clearTimeout(thread.timer);
    this.threads.delete(thread);
    thread.worker.terminate();
  }

  private keep(compiled: CompiledGrammar): CompiledGrammar {
    const { digest, program } = compiled;
    if (!this.kept.delete(digest)) this.keptBytes += program.byteLength;
    this.kept.set(digest, compiled);
    for (const [oldest, { program: old }] of this.kept) {
      if (this.keptBytes <= mostKept || oldest === digest) break;
      this.kept.delete(oldest);
      this.keptBytes -= old.byteLength;
    }
    return compiled;
  }
}

function cancelled(): PsionicError {
  return new PsionicError("cancelled", "[grammar] expected a wanted request, got an aborted one");
}

function outOfBounds(field: string, expected: string, got: string): PsionicError {
  return withField(refused("grammar", expected, got, { fix: "Make it simpler" }), field);
}
