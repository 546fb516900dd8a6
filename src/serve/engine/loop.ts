import { PsionicError } from "../../core/error.ts";
import { unpackProgram } from "../grammar/index.ts";
import type { EngineInfo, EngineOptions, GenerateEvent } from "../protocol.ts";
import type { PromptLimits } from "./backend_limits.ts";
import type { GroupShape, StepExecutor } from "./batch.ts";
import type { DiskTier, DiskTierOptions } from "./disk_tier.ts";
import { errorRecord, LinkEnd, type Message } from "./link.ts";
import { type Command, type LoadProgress, type Report, statFields, type WorkerStart } from "./messages.ts";
import { rehearsalStage } from "./rehearsal.ts";
import { Scheduler } from "./scheduler.ts";

/** A model with its cache, ready to run steps. */
export type LoadedEngine = {
  readonly executor: StepExecutor;
  readonly groups: readonly GroupShape[];
  /** Slots for states of recurrent layers; 0 or absent: the model has none. */
  readonly stateSlots?: number;
  readonly info: EngineInfo;
  /** The content digest, when `info` has none yet: a call of `advance` takes about a millisecond. */
  readonly digest?: { readonly value: string | undefined; advance(): void };
  /** Absent: the CPU's. */
  readonly promptLimits?: PromptLimits;
  /** Where the prefix cache is kept in files, and what they depend on besides the model's content. */
  readonly prefixDisk?: Omit<DiskTierOptions, "warn">;
  arenaPeakBytes(): number;
  /** Bytes taken of the device's own memory; absent: it computes in the host's. */
  deviceMemoryBytes?(): number;
  close(): void;
};

export type Load = (
  options: EngineOptions,
  onProgress: (progress: LoadProgress) => void,
) => Promise<LoadedEngine>;

/**
 * The worker thread's life: load, then take commands and run steps until told to close. It owns every native call. With
 * nothing to do it sleeps on its bell; commands take effect between two steps.
 */
export async function runEngine(start: WorkerStart, load: Load): Promise<void> {
  const link = new LinkEnd(start.link, "worker");
  const report = (message: Report) => link.send(message);
  let engine: LoadedEngine;
  try {
    engine = await load(start.options, (progress) => report({ type: "progress", progress }));
  } catch (error) {
    report({ type: "broken", error: errorRecord(error) });
    return;
  }
  report({ type: "ready", info: engine.info });
  try {
    serve(link, engine, new Float64Array(start.stats));
    engine.close();
    report({ type: "closed" });
  } catch (error) {
    report({ type: "broken", error: errorRecord(error) });
  }
  drain(link);
}

/**
 * A thread that never returns to its event loop collects late: 30 MB of garbage stay resident. So the collector runs in
 * a pause after this many steps; it takes some 15 ms, hence not at once, when the next request may be on its way.
 */
const stepsBeforeCollection = 256;
const pauseBeforeCollectionMs = 50;

/** While requests run, hashing takes about one per cent of the time. */
const msBetweenPieces = 100;

/** Hashes the model's content beside serving: whenever there is nothing else to do, and now and then in between. */
class DigestWork {
  private digest: LoadedEngine["digest"];
  private readonly report: (message: Report) => void;
  private last = performance.now();

  constructor({ info, digest }: LoadedEngine, report: (message: Report) => void) {
    this.digest = info.model.digest === null ? digest : undefined;
    this.report = report;
  }

  /** Hashes a piece, unless requests run and one was hashed just now; false when nothing is left to hash. */
  advance(busy: boolean): boolean {
    if (!this.digest) return false;
    const now = performance.now();
    if (busy && now - this.last < msBetweenPieces) return true;
    this.last = now;
    try {
      this.digest.advance();
      const { value } = this.digest;
      if (value === undefined) return true;
      this.report({ type: "digest", digest: value });
    } catch (error) {
      this.report({ type: "noDigest", error: errorRecord(error) });
    }
    this.digest = undefined;
    return false;
  }
}

/** At the end, the prefix cache's last pages are written for at most so long. */
const mostFlushMs = 10_000;

/**
 * A request that is announced is looked for without sleeping for at most so long: waking up takes some 0.2 ms, and other
 * work of an idle thread takes longer still.
 */
const mostWatchMs = 3;

/** While requests run, copying pages for the prefix cache's files takes a few per cent of the time. */
const msBetweenCopies = 50;
/** The disk is slower than copying: how it gets on is looked at so often. */
const msBetweenLooks = 20;

/** Copies what the prefix cache's files are to hold, beside serving. */
class SaveWork {
  private readonly disk: DiskTier | undefined;
  private last = Number.NEGATIVE_INFINITY;

  constructor(disk: DiskTier | undefined) {
    this.disk = disk;
  }

  /** Copies a piece, unless requests run and one was copied just now; false when nothing is left to copy. */
  advance(busy: boolean): boolean {
    if (!this.disk) return false;
    const now = performance.now();
    if (busy && now - this.last < msBetweenCopies) return true;
    this.last = now;
    return this.disk.advance(busy);
  }
}

/** A driver takes some microseconds to say how much memory is taken. */
const msBetweenMemoryQueries = 1000;

/** What is taken of the device's memory, asked for now and then. */
class DeviceMemory {
  private readonly engine: LoadedEngine;
  private last = Number.NEGATIVE_INFINITY;
  taken = 0;

  constructor(engine: LoadedEngine) {
    this.engine = engine;
    this.look();
  }

  look(): void {
    const now = performance.now();
    if (!this.engine.deviceMemoryBytes || now - this.last < msBetweenMemoryQueries) return;
    this.last = now;
    this.taken = this.engine.deviceMemoryBytes();
  }
}

function serve(link: LinkEnd, engine: LoadedEngine, stats: Float64Array): void {
  const report = (message: Report) => link.send(message);
  let events: [number, GenerateEvent][] = [];
  /** Tokens alone wait for the next step's start; how a request begins and ends is told at once, before any other work. */
  let pressing = false;
  const flushEvents = () => {
    pressing = false;
    if (events.length === 0) return;
    report({ type: "events", events });
    events = [];
  };
  const fail = (id: number, error: PsionicError) => {
    flushEvents();
    report({ type: "failed", id, error: errorRecord(error) });
  };
  const { executor, groups, stateSlots, info, promptLimits, prefixDisk } = engine;
  const warn = (message: string) => report({ type: "warning", message });
  const { slots, maxQueue, contextLength } = info;
  const emit = (id: number, event: GenerateEvent) => {
    events.push([id, event]);
    if (event.type !== "token") pressing = true;
    // the first token of an answer: somebody waits for it, and what its step leaves to be entered takes as long as sending it
    else if (pressing) flushEvents();
  };
  const scheduler = new Scheduler({
    ...{ executor, groups, slots, maxQueue, contextLength, ...(promptLimits ? { promptLimits } : {}) },
    ...(stateSlots ? { stateSlots } : {}),
    ...(prefixDisk ? { prefixDisk: { ...prefixDisk, warn } } : {}),
    ...{ emit, fail },
  });
  const { vocabularySize } = executor;
  const stage = rehearsalStage({ vocabularySize, emit, fail, rouse: () => scheduler.rouse() });
  const { disk } = scheduler;
  if (info.model.digest !== null) disk?.open(info.model.digest);
  const hashing = new DigestWork(engine, (message) => {
    if (message.type === "digest") disk?.open(message.digest);
    report(message);
  });
  const saving = new SaveWork(disk);
  const deviceMemory = new DeviceMemory(engine);
  let closing = false;
  let sinceCollection = 0;
  /** The prompt of the last `expect`, and whether its request is still to come. */
  let expected: Int32Array = new Int32Array(0);
  let expecting = false;
  const obey = ({ body, numbers }: Message) => {
    const command = body as Command;
    if (command.type === "close") closing = true;
    else if (command.type === "cancel")
      for (const one of [scheduler, stage]) one.cancel(command.id, command.choice);
    else if (command.type === "vocabulary") scheduler.grammars.learn(numbers);
    else if (command.type === "expect") {
      [expected, expecting] = [numbers, true];
      scheduler.expect(numbers, command.tenant);
    } else if (command.type === "grammar") scheduler.grammars.add(command.digest, unpackProgram(numbers));
    else {
      const prompt = command.expected ? expected : numbers;
      [expected, expecting] = [new Int32Array(0), false];
      try {
        (command.request.rehearsal ? stage : scheduler).submit(command.id, { ...command.request, prompt });
      } catch (error) {
        fail(command.id, asPsionicError(error));
      }
    }
  };
  for (;;) {
    const seen = link.bell();
    for (const message of link.receive()) obey(message);
    while (!stage.idle) step(stage, flushEvents);
    // what a step gave is sent while the device computes the next one
    const worked = step(scheduler, flushEvents);
    // whoever learns of a request's end finds it in the figures
    writeStats(stats, scheduler, engine, deviceMemory.taken);
    if (pressing) flushEvents();
    deviceMemory.look();
    if (worked) {
      sinceCollection += 1;
      hashing.advance(true);
      saving.advance(true);
      if (!scheduler.idle) continue;
    }
    flushEvents();
    if (worked) continue;
    if (closing && scheduler.idle) {
      disk?.flush(mostFlushMs);
      return;
    }
    const announced = link.takeAnnounced();
    if (announced) scheduler.rouse();
    const awaits = announced || expecting;
    expecting = false;
    if (awaits && link.watch(seen, mostWatchMs)) continue;
    if (saving.advance(false)) continue;
    if (hashing.advance(false)) continue;
    if (disk?.busy) link.waitBlocking(seen, msBetweenLooks);
    else if (sinceCollection < stepsBeforeCollection) link.waitBlocking(seen);
    else if (!link.waitBlocking(seen, pauseBeforeCollectionMs)) {
      Bun.gc(true);
      sinceCollection = 0;
    }
  }
}

function step(scheduler: Scheduler, meanwhile: () => void): boolean {
  try {
    return scheduler.step(meanwhile);
  } catch (error) {
    const reason = asPsionicError(error);
    if (reason.code === "native_failed") throw reason;
    scheduler.failAll(reason);
    return true;
  }
}

function writeStats(
  stats: Float64Array,
  scheduler: Scheduler,
  engine: LoadedEngine,
  deviceMemoryBytes: number,
): void {
  const now = {
    ...scheduler.stats(),
    arenaPeakBytes: engine.arenaPeakBytes(),
    deviceMemoryBytes,
  };
  statFields.forEach((field, i) => {
    stats[i] = now[field];
  });
}

/** Waits until the other side has taken everything. */
function drain(link: LinkEnd): void {
  for (;;) {
    const seen = link.bell();
    if (link.flush()) return;
    link.waitBlocking(seen);
  }
}

function asPsionicError(error: unknown): PsionicError {
  if (error instanceof PsionicError) return error;
  const { code, message, details } = errorRecord(error);
  return new PsionicError(code, message, { ...details }, error);
}
