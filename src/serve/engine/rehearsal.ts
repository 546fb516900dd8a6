import type { PsionicError } from "../../core/error.ts";
import type { GenerateEvent } from "../protocol.ts";
import type { Logits, StepExecutor } from "./batch.ts";
import { pageSize } from "./pages.ts";
import { Scheduler } from "./scheduler.ts";

/** Pages of a rehearsed context. */
const pages = 64;

export type Stage = {
  readonly vocabularySize: number;
  readonly emit: (id: number, event: GenerateEvent) => void;
  readonly fail: (id: number, error: PsionicError) => void;
  /** Called in every step. */
  readonly rouse: () => void;
};

/**
 * A scheduler for rehearsed requests: they go the way of real ones (look-up, pages, batch, token), but their steps compute nothing, and
 * no cache, queue or count is that of the engine.
 */
export function rehearsalStage({ vocabularySize, emit, fail, rouse }: Stage): Scheduler {
  const executor: StepExecutor = {
    vocabularySize,
    run(batch, read, meanwhile) {
      rouse();
      meanwhile?.();
      read(nothingFor(batch.outputRows.length));
    },
    copyState: absent,
  };
  const groups = [{ window: 0, pages }];
  return new Scheduler({
    ...{ executor, groups, slots: 1, maxQueue: 1, contextLength: pages * pageSize, emit, fail },
  });
}

function nothingFor(rows: number): Logits {
  const argmax = () => new Int32Array(rows);
  return {
    rows,
    argmax,
    topK: absent,
    logSumExp: absent,
    copy: absent,
    chosen: () => undefined,
    hidden: absent,
  };
}

function absent(): never {
  throw new Error("[rehearsal] expected a greedy request, got another");
}
