import { type PsionicError, unexpected } from "../../core/error.ts";
import { groupPageBytes, stateBytes } from "../../models/cache.ts";
import type { CacheGroup, CacheType, ModelConfig, RecurrentShape } from "../../models/model.ts";
import type { EngineOptions, MemoryPlan } from "../protocol.ts";
import { backendLimits } from "./backend_limits.ts";
import type { GroupShape } from "./batch.ts";
import { pageSize, pagesFor, windowPages } from "./pages.ts";

/** What the plan must know of a model; all of it is in the file's metadata. */
export type ModelShape = {
  readonly config: ModelConfig;
  readonly cacheGroups: readonly CacheGroup[];
  /** Absent: no layer is recurrent. */
  readonly recurrent?: RecurrentShape;
  /** Bytes resident for weights after loading. */
  readonly weightBytes: number;
  /** Bytes of temporaries of the largest step; absent: estimated from the width and the vocabulary. */
  readonly workspaceBytes?: number;
};

export type EnginePlan = {
  readonly contextLength: number;
  readonly slots: number;
  readonly maxQueue: number;
  readonly cacheType: CacheType;
  /** Pages per cache group. */
  readonly groups: readonly GroupShape[];
  /** States of recurrent layers: one for each slot, the rest for copies at page boundaries; 0 where there are none. */
  readonly stateSlots: number;
  readonly memory: MemoryPlan;
  /** What was chosen for the user, in sentences for the log. */
  readonly notes: readonly string[];
};

type PlanOptions = Pick<
  EngineOptions,
  "contextLength" | "slots" | "maxQueue" | "cacheType" | "sharesMemory" | "wholeContext"
> &
  Partial<Pick<EngineOptions, "backend">>;

export const defaultSlots = 8;
export const defaultCacheType: CacheType = "f16";
const largestSlots = 256;
const defaultQueue = 2048;
/** Cached turns per slot whose windows are kept. */
const checkpointsPerSlot = 8;
/** Copies of recurrent states per slot, where a part of the caches' memory holds them; fewer than the least are of no use. */
const statesPerSlot = 4;
const statesPart = 0.25;
const leastStates = 4;

/** Divides memory before anything is loaded; throws `admission_refused` with the numbers when it does not suffice. */
export function planMemory(shape: ModelShape, options: PlanOptions, availableBytes: number): EnginePlan {
  const cacheType = options.cacheType ?? defaultCacheType;
  const slots = checked("slots", options.slots ?? defaultSlots, largestSlots);
  const maxQueue = checked("maxQueue", options.maxQueue ?? defaultQueue, 1e6);
  const limits = backendLimits[options.backend ?? "cpu"];
  const perStep = limits.prompt.perStep;
  const workspaceBytes = shape.workspaceBytes ?? estimatedWorkspace(shape.config, perStep + slots, slots);
  const budget = availableBytes - shape.weightBytes - workspaceBytes - limits.reserveBytes;
  const groupsFor = (length: number, full: number) => groupShapes(shape, length, full, slots, perStep);
  const oneState = shape.recurrent ? stateBytes(shape.recurrent) : 0;
  const cacheBytes = (length: number, full: number) =>
    bytesOf(shape, cacheType, groupsFor(length, full), limits.sparePages) + slots * oneState;
  const notes: string[] = [];
  const bytesFor = (length: number) => cacheBytes(length, 1);
  const context = contextFor(shape, options, { budget, availableBytes, bytes: bytesFor }, notes);
  const asked = options.slots !== undefined;
  const limit = asked
    ? budget
    : Math.max(budget * (options.sharesMemory ? 0 : limits.defaultPart), cacheBytes(context, 1));
  const one = cacheBytes(context, 1);
  const copies = oneState > 0 ? stateCopies(oneState, slots, limit - one, budget - one) : 0;
  const parallel = largest(slots, (n) => cacheBytes(context, n) + copies * oneState <= limit);
  if (parallel < slots) {
    notes.push(
      `Caches hold ${parallel} full contexts for ${slots} slots; requests beyond that are set back and resumed.`,
    );
  }
  const groups = groupsFor(context, parallel);
  const bytes = cacheBytes(context, parallel) + copies * oneState;
  const stateSlots = oneState > 0 ? slots + copies : 0;
  return {
    ...{ contextLength: context, slots, maxQueue, cacheType, groups, stateSlots, notes },
    memory: {
      weightBytes: shape.weightBytes,
      cacheBytes: bytes,
      workspaceBytes,
      totalBytes: shape.weightBytes + bytes + workspaceBytes,
      processBytes: processBytes(shape.config.vocabularySize),
    },
  };
}

/** Copies of states: by a part of what caches of this size leave, yet a few wherever memory has room for them at all. */
function stateCopies(oneState: number, slots: number, left: number, room: number): number {
  const wanted = Math.max(leastStates, Math.floor((statesPart * left) / oneState));
  return Math.max(0, Math.min(wanted, slots * statesPerSlot, Math.floor(room / oneState)));
}

/**
 * What a server's process holds beside the plan once some hundred requests have passed: measured (docs/log.md), since
 * nothing states it. It starts some 40 MiB lower; garbage of requests brings the heap to its level.
 */
const runtimeBytes = 125 * 2 ** 20;
/** Texts and tables of one token, in both threads. */
const bytesPerToken = 440;

function processBytes(vocabularySize: number): number {
  return runtimeBytes + vocabularySize * bytesPerToken;
}

/** Bytes for caches, of those available, and what a context takes of them. */
type Room = {
  readonly budget: number;
  readonly availableBytes: number;
  bytes(context: number): number;
};

function contextFor(
  shape: ModelShape,
  options: PlanOptions,
  { budget, availableBytes, bytes }: Room,
  notes: string[],
): number {
  const trained = shape.config.contextLength;
  const wanted = checked("contextLength", options.contextLength ?? trained, 2 ** 30);
  if (wanted > trained) {
    notes.push(`The context of ${wanted} tokens is longer than the ${trained} the model was trained for.`);
  }
  if (bytes(wanted) <= budget) return wanted;
  const least =
    options.contextLength === undefined ? Math.min(bytes(pageSize), bytes(wanted)) : bytes(wanted);
  const refusal = (length: number) =>
    refused(shape, length, bytes(length), least, { budget, availableBytes });
  if (options.contextLength !== undefined || options.wholeContext) throw refusal(wanted);
  const pages = largest(pagesFor(wanted), (n) => bytes(n * pageSize) <= budget);
  if (bytes(pageSize * pages) > budget) throw refusal(pageSize);
  const context = pages * pageSize;
  notes.push(`The context is cut from ${trained} to ${context} tokens, which is what memory admits.`);
  return context;
}

/** Largest n from 1 to `most` for which a monotone condition holds; 1 when it holds for none. */
function largest(most: number, holds: (n: number) => boolean): number {
  let low = 1;
  let high = most;
  while (low < high) {
    const middle = Math.ceil((low + high) / 2);
    if (holds(middle)) low = middle;
    else high = middle - 1;
  }
  return low;
}

/** Pages for `parallel` full contexts, and for the windows of all slots with the checkpoints of their past turns. */
function groupShapes(
  shape: ModelShape,
  context: number,
  parallel: number,
  slots: number,
  promptTokens: number,
): GroupShape[] {
  return shape.cacheGroups.map(({ window }) => {
    const full = parallel * pagesFor(context);
    if (window === 0) return { window, pages: full };
    // each slot: the window, one page more for resuming, and the pages at both ends of what it is computing
    const running = slots * (windowPages(window) + 4) + pagesFor(promptTokens);
    const checkpoints = slots * checkpointsPerSlot * (windowPages(window) + 1);
    return { window, pages: Math.min(running + checkpoints, slots * pagesFor(context)) };
  });
}

function bytesOf(
  shape: ModelShape,
  cacheType: CacheType,
  groups: readonly GroupShape[],
  sparePages: number,
): number {
  return shape.cacheGroups.reduce(
    (sum, group, g) => sum + (groups[g]!.pages + sparePages) * groupPageBytes(group, cacheType),
    0,
  );
}

/** f32 rows of the model's width that are alive at the worst moment of a layer, by measurement on the known families. */
const rowsPerToken = 24;

function estimatedWorkspace({ width, vocabularySize }: ModelConfig, tokens: number, slots: number): number {
  return tokens * width * 4 * rowsPerToken + 2 * slots * vocabularySize * 4;
}

function checked(param: string, value: number, most: number): number {
  if (!Number.isInteger(value) || value < 1 || value > most) {
    throw unexpected("invalid_argument", param, `a whole number from 1 to ${most}`, value, {
      details: { param },
    });
  }
  return value;
}

function refused(
  shape: ModelShape,
  contextLength: number,
  cacheBytes: number,
  leastCacheBytes: number,
  { budget: budgetBytes, availableBytes }: Omit<Room, "bytes">,
): PsionicError {
  const expected = `${mebibytes(cacheBytes)} MiB for the cache of one context of ${contextLength} tokens`;
  const weights = `weights of ${mebibytes(shape.weightBytes)} MiB`;
  const got = `${mebibytes(Math.max(0, budgetBytes))} MiB beside ${weights} in ${mebibytes(availableBytes)} MiB free`;
  const fix = "Ask for a shorter context or a smaller cache type, or free memory";
  const rest = availableBytes - budgetBytes;
  const details = {
    ...{ contextLength, cacheBytes, budgetBytes, availableBytes, weightBytes: shape.weightBytes },
    // what would have to be available: for this context, and for the shortest that may be served
    ...{ neededBytes: rest + cacheBytes, leastBytes: rest + leastCacheBytes },
  };
  return unexpected("admission_refused", "memory plan", expected, got, { fix, details });
}

function mebibytes(bytes: number): number {
  return Math.ceil(bytes / 2 ** 20);
}
