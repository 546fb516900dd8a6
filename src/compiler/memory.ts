import type { Program } from "../ir/program.ts";

export type ProgramMemory = {
  readonly weightBytes: number;
  readonly stateBytes: number;
  /** Temporaries alive at the worst moment, the op's scratch included, when each is dropped after its last use. */
  readonly workspaceBytes: number;
};

/** Memory a step needs, from the lifetimes of its values. */
export function programMemory(program: Program): ProgramMemory {
  const lastUse = new Map<number, number>();
  for (const [at, call] of program.calls.entries()) {
    for (const v of [...call.inputs, ...call.outputs]) lastUse.set(v, at);
  }
  let weightBytes = 0;
  let stateBytes = 0;
  for (const value of program.values) {
    if (value.kind === "weight") weightBytes += value.bytes;
    if (value.kind === "state") stateBytes += value.bytes;
  }
  const alive = new Set<number>();
  let current = 0;
  let workspaceBytes = 0;
  for (const [at, call] of program.calls.entries()) {
    for (const v of [...call.inputs, ...call.outputs]) {
      if (v < 0 || alive.has(v) || program.values[v]!.kind !== "temporary") continue;
      alive.add(v);
      current += program.values[v]!.bytes;
    }
    workspaceBytes = Math.max(workspaceBytes, current + call.scratchBytes);
    for (const v of [...alive]) {
      if (lastUse.get(v) !== at) continue;
      alive.delete(v);
      current -= program.values[v]!.bytes;
    }
  }
  return { weightBytes, stateBytes, workspaceBytes };
}
