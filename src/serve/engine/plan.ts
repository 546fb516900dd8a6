import { type PsionicError, unexpected } from "../../core/error.ts";
import { groupPageBytes } from "../../models/cache.ts";
import type { CacheGroup, CacheType, ModelConfig } from "../../models/model.ts";
import type { EngineOptions, MemoryPlan } from "../protocol.ts";
import type { GroupShape } from "./batch.ts";
import { promptTokensPerStep } from "./budget.ts";
import { pageSize, pagesFor, windowPages } from "./pages.ts";

/** What the plan must know of a model; all of it is in the file's metadata. */
export type ModelShape = {
  readonly config: ModelConfig;
  readonly cacheGroups: readonly CacheGroup[];
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
  readonly memory: MemoryPlan;
  /** What was chosen for the user, in sentences for the log. */
  readonly notes: readonly string[];
};

type PlanOptions = Pick<EngineOptions, "contextLength" | "slots" | "maxQueue" | "cacheType">;

export const defaultSlots = 8;
export const defaultCacheType: CacheType = "f16";
const largestSlots = 256;
const defaultQueue = 512;
/** Cached turns per slot whose windows are kept. */
const checkpointsPerSlot = 8;
/** Left to the rest of the process and machine. */
const reserveBytes = 256 * 2 ** 20;
/**
 * Part of the memory left by weights that caches of a default size may take. A user who asks for a context and slots
 * gets them as long as they fit at all.
 */
const defaultPart = 0.25;

/** Divides memory before anything is loaded; throws `admission_refused` with the numbers when it does not suffice. */
export function planMemory(shape: ModelShape, options: PlanOptions, availableBytes: number): EnginePlan {
  const cacheType = options.cacheType ?? defaultCacheType;
  const slots = checked("slots", options.slots ?? defaultSlots, largestSlots);
  const maxQueue = checked("maxQueue", options.maxQueue ?? defaultQueue, 1e6);
  const workspaceBytes = shape.workspaceBytes ?? estimatedWorkspace(shape.config, slots);
  const budget = availableBytes - shape.weightBytes - workspaceBytes - reserveBytes;
  const cacheBytes = (context: number, parallel: number) =>
    bytesOf(shape, cacheType, groupShapes(shape, context, parallel, slots));
  const notes: string[] = [];
  const context = contextFor(shape, options, budget, (length) => cacheBytes(length, 1), notes);
  const asked = options.slots !== undefined;
  const limit = asked ? budget : Math.max(budget * defaultPart, cacheBytes(context, 1));
  const parallel = largest(slots, (n) => cacheBytes(context, n) <= limit);
  if (parallel < slots) {
    notes.push(
      `Caches hold ${parallel} full contexts for ${slots} slots; requests beyond that are set back and resumed.`,
    );
  }
  const groups = groupShapes(shape, context, parallel, slots);
  const bytes = bytesOf(shape, cacheType, groups);
  return {
    ...{ contextLength: context, slots, maxQueue, cacheType, groups, notes },
    memory: {
      weightBytes: shape.weightBytes,
      cacheBytes: bytes,
      workspaceBytes,
      totalBytes: shape.weightBytes + bytes + workspaceBytes,
    },
  };
}

function contextFor(
  shape: ModelShape,
  options: PlanOptions,
  budget: number,
  bytes: (context: number) => number,
  notes: string[],
): number {
  const trained = shape.config.contextLength;
  const wanted = checked("contextLength", options.contextLength ?? trained, 2 ** 30);
  if (wanted > trained) {
    notes.push(`The context of ${wanted} tokens is longer than the ${trained} the model was trained for.`);
  }
  if (bytes(wanted) <= budget) return wanted;
  if (options.contextLength !== undefined) throw refused(shape, wanted, bytes(wanted), budget);
  const pages = largest(pagesFor(wanted), (n) => bytes(n * pageSize) <= budget);
  if (bytes(pageSize * pages) > budget) throw refused(shape, pageSize, bytes(pageSize), budget);
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
function groupShapes(shape: ModelShape, context: number, parallel: number, slots: number): GroupShape[] {
  return shape.cacheGroups.map(({ window }) => {
    const full = parallel * pagesFor(context);
    if (window === 0) return { window, pages: full };
    // each slot: the window, one page more for resuming, and the pages at both ends of what it is computing
    const running = slots * (windowPages(window) + 4) + pagesFor(promptTokensPerStep);
    const checkpoints = slots * checkpointsPerSlot * (windowPages(window) + 1);
    return { window, pages: Math.min(running + checkpoints, slots * pagesFor(context)) };
  });
}

function bytesOf(shape: ModelShape, cacheType: CacheType, groups: readonly GroupShape[]): number {
  return shape.cacheGroups.reduce(
    (sum, group, g) => sum + groups[g]!.pages * groupPageBytes(group, cacheType),
    0,
  );
}

/** f32 rows of the model's width that are alive at the worst moment of a layer, by measurement on the known families. */
const rowsPerToken = 24;

function estimatedWorkspace({ width, vocabularySize }: ModelConfig, slots: number): number {
  const tokens = promptTokensPerStep + slots;
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
  budgetBytes: number,
): PsionicError {
  const expected = `${mebibytes(cacheBytes)} MiB for the cache of one context of ${contextLength} tokens`;
  const got = `${mebibytes(Math.max(0, budgetBytes))} MiB beside weights of ${mebibytes(shape.weightBytes)} MiB`;
  const fix = "Ask for a shorter context or a smaller cache type, or free memory";
  const details = { contextLength, cacheBytes, budgetBytes, weightBytes: shape.weightBytes };
  return unexpected("admission_refused", "memory plan", expected, got, { fix, details });
}

function mebibytes(bytes: number): number {
  return Math.ceil(bytes / 2 ** 20);
}
