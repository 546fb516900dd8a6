/** Worker entry for link and client tests: the engine's loop around the paged double. */
import { PsionicError } from "../../../core/error.ts";
import type { EngineInfo } from "../../protocol.ts";
import { type LoadedEngine, runEngine } from "../loop.ts";
import type { WorkerStart } from "../messages.ts";
import { PagedDouble } from "./paged_double.ts";

/** A prompt that begins with this token makes the worker exit in the middle of a step. */
const deadlyToken = 96;
/** One that begins with this token finds the device failed. */
const failingToken = 95;

declare const self: Worker;

const slots = 8;
const contextLength = 2 ** 20;

/** Pieces of the digest by the name of the double: one that ends, one whose file changes meanwhile. */
const pieces = new Map([
  ["unhashed", 3],
  ["changing", -1],
]);

function slowDigest(count: number): LoadedEngine["digest"] {
  let left = count;
  return {
    get value() {
      return left === 0 ? "sha256:hashed" : undefined;
    },
    advance() {
      if (left < 0) throw new Error("the file has changed");
      left -= 1;
    },
  };
}

self.onmessage = ({ data }: MessageEvent<WorkerStart>) => {
  void runEngine(data, async (options, onProgress): Promise<LoadedEngine> => {
    onProgress({ stage: "double", done: 1, total: 1 });
    if (options.modelPath === "missing") throw new Error("there is no such double");
    const groups = [{ window: 32, pages: 20_000 }];
    const double = new PagedDouble(97, groups);
    return {
      executor: {
        vocabularySize: 97,
        run(batch, read, meanwhile) {
          if (batch.positions[0] === 0 && batch.tokens[0] === deadlyToken) process.exit(3);
          if (batch.positions[0] === 0 && batch.tokens[0] === failingToken) {
            throw new PsionicError(
              "native_failed",
              "[psi_download] expected CUDA to go on, got: misaligned address",
            );
          }
          double.run(batch, read, meanwhile);
        },
        copyState: (from, to) => double.copyState(from, to),
      },
      groups,
      info: {
        slots,
        maxQueue: 512,
        contextLength,
        model: { vocabularySize: 97, digest: pieces.has(options.modelPath) ? null : "sha256:known" },
      } as EngineInfo,
      digest: slowDigest(pieces.get(options.modelPath) ?? 0),
      arenaPeakBytes: () => 42,
      close: () => {},
    };
  });
};
