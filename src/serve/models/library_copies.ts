import { copyLibrary } from "../../backends/index.ts";
import type { EngineBackend } from "../../ir/op.ts";

/** A library that one engine has to itself, until it gives it back. */
export type LibraryCopy = {
  /** Absent: the library itself. */
  readonly path?: string;
  /** `spoiled`: the engine ended in a way that may have left the library in the middle of something. */
  readonly release: (spoiled: boolean) => void;
};

type Slot = { readonly path: string | undefined; taken: boolean };

/** Libraries of this process by backend; the first is the library itself, the others are copies of it. */
const slots = new Map<EngineBackend, Slot[]>();

/** A library that no engine uses. Copies are used again, since what was loaded stays until the process ends. */
export function takeLibrary(backend: EngineBackend): LibraryCopy {
  const all = slots.get(backend) ?? [];
  slots.set(backend, all);
  let slot = all.find(({ taken }) => !taken);
  if (!slot) {
    slot = { path: all.length === 0 ? undefined : copyLibrary(backend), taken: false };
    all.push(slot);
  }
  slot.taken = true;
  const own = slot;
  return {
    ...(own.path === undefined ? {} : { path: own.path }),
    release: (spoiled) => {
      own.taken = spoiled;
    },
  };
}
