import type { EngineOptions } from "../protocol.ts";

/** How prompts are cut into steps. */
export type PromptLimits = {
  /** Prompt tokens of a step when nobody is generating: enough rows for the matrix kernels to reach their peak. */
  readonly perStep: number;
  /** While others generate, the prompt part of a step should take no longer than this. */
  readonly shareMs: number;
  /** Bounds of that part, tokens, and its size before anything was measured. */
  readonly leastShare: number;
  readonly largestShare: number;
  readonly firstShare: number;
};

/** What the engine does differently on devices of another kind; results depend on none of it. */
export type BackendLimits = {
  readonly prompt: PromptLimits;
  /**
   * Part of the memory left by weights that caches of a default size may take. A user who asks for a context and slots
   * gets them as long as they fit at all.
   */
  readonly defaultPart: number;
  /** Bytes left to others: the rest of the process and machine; on a GPU recordings, staging and code. */
  readonly reserveBytes: number;
  /** Pages of each cache group beyond those of the sequences. */
  readonly sparePages: number;
};

/** What the spare rows of recorded steps write to. */
export const spareRowPages = 1;

export const backendLimits: Readonly<Record<EngineOptions["backend"], BackendLimits>> = {
  cpu: {
    prompt: { perStep: 512, shareMs: 80, leastShare: 32, largestShare: 256, firstShare: 64 },
    defaultPart: 0.25,
    reserveBytes: 256 * 2 ** 20,
    sparePages: 0,
  },
  cuda: {
    // experts see a thirty-second part of the rows each, so few rows would leave tensor cores idle
    prompt: { perStep: 2048, shareMs: 20, leastShare: 64, largestShare: 1024, firstShare: 256 },
    defaultPart: 0.75,
    reserveBytes: 384 * 2 ** 20,
    sparePages: spareRowPages,
  },
  metal: {
    prompt: { perStep: 512, shareMs: 40, leastShare: 32, largestShare: 512, firstShare: 64 },
    // the machine's memory, of which the system's recommendation already leaves a part to others
    defaultPart: 0.5,
    reserveBytes: 384 * 2 ** 20,
    sparePages: 0,
  },
  "metal-standin": {
    prompt: { perStep: 64, shareMs: 1000, leastShare: 16, largestShare: 64, firstShare: 16 },
    defaultPart: 0.1,
    reserveBytes: 256 * 2 ** 20,
    sparePages: 0,
  },
};
