/** A window of steps of a whole model really trained. */
import type { Invocation } from "../surfaces.ts";
import { exportAdapter } from "./adapter_export.ts";
import type { StateRecord } from "./state_object.ts";
import type { WindowPlan } from "./window_plan.ts";
import { runWindow, type TrainedWindow } from "./window_run.ts";
import { WindowSession } from "./window_session.ts";

/** A checkpoint below the run root that a window goes on from. */
export type WindowStart = { readonly state: StateRecord; readonly path: string };

/** Trains the window that is due, from a checkpoint or else from the seed. */
export function trainWindow(invocation: Invocation, plan: WindowPlan, start?: WindowStart): TrainedWindow {
  const { root, capability } = invocation;
  using session = new WindowSession(plan, capability.backend_family);
  if (start) session.load(root.path(start.path), start.state);
  return runWindow(invocation, {
    ...{ plan, holder: session.trainer, done: start?.state.step ?? 0 },
    run: (segment) => session.run(segment),
    end: () => exportAdapter(root, session.trainer, plan),
  });
}
