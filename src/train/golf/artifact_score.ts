/** The score of a compressed model alone, as the challenge measures: decompress, dequantise, evaluate. */
import { readFileSync } from "node:fs";
import { openDevice } from "../../backends/index.ts";
import { sha256 } from "../../core/digest.ts";
import { fileError } from "../../models/files/bytes.ts";
import type { TrainingBackend } from "../plan.ts";
import { Trainer } from "../trainer.ts";
import { decompressed, loadExported, tensorsOfContainer } from "./artifact.ts";
import { openGolfData } from "./data.ts";
import { golfModel, golfTrainerConfig, placeholderWindows } from "./recipe.ts";
import { type Score, score } from "./score.ts";
import type { GolfSettings } from "./settings.ts";

export type ScoredArtifact = Score & {
  readonly artifact_bytes: number;
  readonly artifact_digest: string;
  readonly observed_eval_ms: number;
};

export async function scoreArtifact(
  path: string,
  settings: GolfSettings,
  options: {
    readonly backend: TrainingBackend;
    readonly threads: number;
    readonly onWindow: (done: number, total: number) => void;
  },
): Promise<ScoredArtifact> {
  let bytes: Uint8Array;
  try {
    bytes = readFileSync(path);
  } catch (cause) {
    throw fileError(path, cause);
  }
  const tensors = tensorsOfContainer(decompressed(bytes, path), path);
  const data = await openGolfData(settings);
  const { backend, threads } = options;
  const device = backend === "cpu" ? openDevice("cpu", { threads }) : openDevice(backend);
  try {
    const begun = performance.now();
    const model = golfModel(settings, data.vocabularySize);
    const windows = placeholderWindows(settings.length);
    using trainer = new Trainer(device, model, windows, golfTrainerConfig(settings), "none");
    loadExported(trainer.parameters, tensors, path);
    const found = score((b) => trainer.lossOf(b), data.validation, data.bytes, settings, options.onWindow);
    return {
      ...found,
      artifact_bytes: bytes.length,
      artifact_digest: sha256(bytes),
      observed_eval_ms: performance.now() - begun,
    };
  } finally {
    device.close();
  }
}
