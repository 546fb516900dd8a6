import { expect, test } from "bun:test";
import { findNamed, modelId } from "../models/names.ts";
import { ModelSet } from "../models/set.ts";
import type { EngineInfo } from "../protocol.ts";
import { ServerMetrics } from "./metrics.ts";
import { modelCard } from "./model_card.ts";
import { scriptedModel } from "./testing/scripted.ts";

const { engine, chat } = scriptedModel("hello");
const known: EngineInfo = engine.info;
const pending: EngineInfo = { ...known, model: { ...known.model, digest: null } };
const digest = `sha256:${known.model.digest}`;

test("the id has the digest; a model still being hashed is called by its name alone, also afterwards", () => {
  expect(modelId(known)).toBe(`test-model@${digest}`);
  expect(modelId(pending)).toBe("test-model");
  const names = (info: EngineInfo, name: string): boolean => {
    const named = { name: "Test-Model.gguf", aliases: ["owner/test:q4"], id: modelId(info) };
    return findNamed([named], name) === named;
  };
  for (const name of [
    "Test-Model.gguf",
    "Test-Model",
    "owner/test:q4",
    "test-model",
    `test-model@${digest}`,
  ]) {
    expect(names(known, name)).toBe(true);
  }
  expect(names(pending, "test-model")).toBe(true);
  expect(names(pending, `test-model@${digest}`)).toBe(false);
  expect(names(known, `test-model@sha256:${"00".repeat(32)}`)).toBe(false);
  expect(names(known, "test-model@")).toBe(false);
});

test("cards and metrics follow the digest", async () => {
  expect(modelCard(pending, chat).meta.digest).toBeNull();
  expect(modelCard(pending, chat).psionic_model_id).toBe("test-model");
  const late = scriptedModel("hello").engine;
  let info = pending;
  Object.defineProperty(late, "info", { get: () => info });
  const models = ModelSet.of({ ...scriptedModel("hello"), engine: late });
  await models.ready;
  const metrics = new ServerMetrics(models, () => 0);
  expect(await metrics.text()).toContain('digest="pending"');
  info = known;
  const text = await metrics.text();
  expect(text).toContain(`digest="${known.model.digest}"`);
  expect(text).not.toContain("pending");
});
