/**
 * Doing a window's work again: what a lane offers to a validator. The work falls into segments that end where a state was
 * retained, and a segment is run as a whole, since what its last step did shows in the state after it.
 */
import type { ExecutionEvidence, LaneProfile } from "./evidence.ts";
import type { StageAssignment } from "./manifest.ts";
import type { Found } from "./replay_inputs.ts";

/** What is done again: evidence that was verified, and the profile that the validator, not the worker, says was to be trained. */
export type ReplayTarget = {
  readonly evidence: ExecutionEvidence;
  readonly profile: LaneProfile;
  /** Of grouped work. */
  readonly stage: StageAssignment | null;
  /** An artifact of the contribution by its kind, verified once and to be verified as it is read; undefined where it lists none. */
  readonly file: (kind: string) => Found | undefined;
};

/** Steps of the run from one retained state to the next, both ends included; later windows do not begin at 1. */
export type Segment = { readonly first: number; readonly last: number };

export type Difference = { readonly what: string; readonly expected: string; readonly observed: string };

/** Losses, norms and rates as text of 32-bit floats. */
export type Trace = {
  readonly loss: string;
  readonly gradient_norm: string;
  readonly learning_rate: string;
};

export type ComparedStep = { readonly step: number; readonly claimed: Trace; readonly observed: Trace };

/** A retained state against the one that came out here. */
export type ComparedState = {
  readonly step: number;
  readonly claimed: string;
  readonly observed: string;
  /** |claimed - observed| over |observed - state that the segment began with|, Euclidean, of all weights together. */
  readonly weightDeviation: number;
  /** Of the optimiser's moments; zero where the files are the same. */
  readonly moments: MomentDeviation;
};

/** Moments against those that came out here: |claimed - observed| over |observed|, Euclidean, of the tensor that is furthest off. */
export type MomentDeviation = {
  readonly first: number;
  /** Of their square roots, which are of the scale of gradients. */
  readonly second: number;
  /** Of first over root of second: where the next step leads, so that entries count alike however small they are. */
  readonly direction: number;
};

export type Comparison = {
  /** What it was run on here. */
  readonly backend: string;
  readonly kernelLibraryDigest: string | null;
  /** Whether backend and kernels are the worker's: then every bit must agree, else values within bounds. */
  readonly sameKernels: boolean;
  /**
   * What no backend may change: profile, seed, data, token ranges, learning rates, steps that are missing, plan, digests of
   * artifacts, the state that a run begins with.
   */
  readonly differences: readonly Difference[];
  readonly steps: readonly ComparedStep[];
  readonly states: readonly ComparedState[];
  readonly durationMs: number;
};

export type WindowReplayer = {
  /** The parts that can be run on their own; in order and without gaps over all steps of the window. */
  segments(evidence: ExecutionEvidence): readonly Segment[];
  /**
   * Runs every segment with one of the steps from the state that was retained before it; `all`: the whole window from its
   * start, the states in between compared as they come. Throws a `Refusal` where artifacts are missing or do not parse.
   */
  replay(target: ReplayTarget, steps: "all" | readonly number[]): Comparison;
};
