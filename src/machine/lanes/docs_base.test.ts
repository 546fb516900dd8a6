/** The base for adapters is the model that is served: both give a text the same loss. */
import { expect, test } from "bun:test";
import { openDevice } from "../../backends/index.ts";
import { windowsOf } from "../../data/batches.ts";
import { defaultModelPath } from "../../models/default_model.ts";
import { openSession } from "../../models/testing/session.ts";
import type { Device } from "../../runtime/device.ts";
import { adamWGroups } from "../../train/optimizer/config.ts";
import { Trainer } from "../../train/trainer.ts";
import { docsBase } from "./docs_base.ts";

const text =
  "A page of memory is mapped when it is read for the first time. The kernel keeps a table of pages.";

/** Mean over the tokens after the first, nats. */
function servedLoss(device: Device, tokens: Int32Array): number {
  const session = openSession(device, defaultModelPath());
  const width = session.model.config.vocabularySize;
  const logits = session.run([[...tokens.subarray(0, -1)]]);
  session.close();
  let total = 0;
  for (let t = 0; t + 1 < tokens.length; t++) {
    const row = logits.subarray(t * width, (t + 1) * width);
    const most = row.reduce((a, b) => Math.max(a, b));
    const sum = row.reduce((a, b) => a + Math.exp(b - most), 0);
    total += most + Math.log(sum) - row[tokens[t + 1]!]!;
  }
  return total / (tokens.length - 1);
}

test("the same loss as the served model gives", () => {
  const { model, own } = docsBase();
  const tokens = own!.encode(text);
  const windows = windowsOf([tokens], tokens.length - 1, 1);
  const device = openDevice("cpu");
  let trained: number;
  {
    using trainer = new Trainer(device, model, windows, {
      ...{ seed: 1, sequences: 1, accumulation: 1, learningRate: 1e-9, clip: 1, recompute: false },
      ...{ precision: "f32", schedule: { kind: "constant" }, groups: adamWGroups(0) },
    });
    own!.fill(trainer.parameters);
    trained = trainer.evaluate(windows);
  }
  const served = servedLoss(device, tokens);
  device.close();
  expect(served).toBeLessThan(8);
  // the server rounds activations to 8 bits
  expect(Math.abs(trained - served) / served).toBeLessThan(0.03);
}, 30_000);
