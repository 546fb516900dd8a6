/** Entry of the engine's thread; an extra entry point of the executable's build. */
import { loadEngine } from "./load.ts";
import { runEngine } from "./loop.ts";
import type { WorkerStart } from "./messages.ts";

declare const self: Worker;

self.onmessage = ({ data }: MessageEvent<WorkerStart>) => {
  void runEngine(data, loadEngine);
};
