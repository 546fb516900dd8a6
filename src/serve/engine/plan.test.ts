import { expect, test } from "bun:test";
import type { PsionicError } from "../../core/error.ts";
import { groupPageBytes } from "../../models/cache.ts";
import { availableMemory } from "./memory.ts";
import { type ModelShape, planMemory } from "./plan.ts";

const gib = 2 ** 30;

function shape(contextLength: number): ModelShape {
  const group = (window: number) => ({ window, layers: [0, 1, 2, 3], kvHeads: 8, headDim: 64 });
  const config = {
    architecture: "x",
    name: "x",
    vocabularySize: 32_000,
    contextLength,
    width: 2048,
    layers: 8,
  };
  return { config, cacheGroups: [group(0), group(128)], weightBytes: gib, workspaceBytes: 2 ** 26 };
}

test("bytes of a page: keys and values of all layers, scales of q8_0 included", () => {
  const [group] = shape(1).cacheGroups;
  expect(groupPageBytes(group!, "f32")).toBe(2 * 4 * 8 * 64 * 32 * 4);
  expect(groupPageBytes(group!, "f16")).toBe(2 * 4 * 8 * 64 * 32 * 2);
  expect(groupPageBytes(group!, "fp8")).toBe(2 * 4 * 8 * 64 * 32);
  expect(groupPageBytes(group!, "q8_0")).toBe(2 * 4 * 8 * 64 * 34);
});

test("with memory to spare every slot has its whole context", () => {
  const plan = planMemory(shape(4096), {}, 16 * gib);
  expect(plan).toMatchObject({ contextLength: 4096, slots: 8, maxQueue: 2048, cacheType: "f16", notes: [] });
  expect(plan.groups[0]!.pages).toBe(8 * 128);
  expect(plan.groups[1]!.pages).toBeLessThan(8 * 128);
  const { weightBytes, cacheBytes, workspaceBytes, totalBytes, processBytes } = plan.memory;
  expect(totalBytes).toBe(weightBytes + cacheBytes + workspaceBytes);
  expect(processBytes).toBeLessThan(150 * 2 ** 20);
});

test("the context is cut to what memory admits, and said so", () => {
  const plan = planMemory(shape(2 ** 20), {}, 3 * gib);
  expect(plan.contextLength).toBeLessThan(2 ** 20);
  expect(plan.contextLength).toBeGreaterThan(100_000);
  expect(plan.memory.totalBytes).toBeLessThan(3 * gib);
  expect(plan.notes.join()).toContain(`from ${2 ** 20} to ${plan.contextLength}`);
});

test("slots beyond the pages share them", () => {
  const plan = planMemory(shape(131_072), { slots: 16 }, 8 * gib);
  expect(plan.slots).toBe(16);
  expect(plan.groups[0]!.pages).toBeGreaterThanOrEqual(4096);
  expect(plan.groups[0]!.pages).toBeLessThan(16 * 4096);
  expect(plan.memory.totalBytes).toBeLessThan(8 * gib);
});

test("an asked context that does not fit is refused with the numbers", () => {
  let error: PsionicError | undefined;
  try {
    planMemory(shape(4096), { contextLength: 1_000_000 }, 2 * gib);
  } catch (e) {
    error = e as PsionicError;
  }
  expect(error?.code).toBe("admission_refused");
  expect(error?.details).toMatchObject({ contextLength: 1_000_000, weightBytes: gib });
  const needed = Number(error?.details.neededBytes);
  expect(error?.details.leastBytes).toBe(needed);
  expect(planMemory(shape(4096), { contextLength: 1_000_000 }, needed).contextLength).toBe(1_000_000);
  expect(() => planMemory(shape(4096), { contextLength: 1_000_000 }, needed - 1)).toThrow("memory plan");
  expect(() => planMemory(shape(4096), {}, gib)).toThrow("memory plan");
  expect(() => planMemory(shape(4096), { slots: 0 }, 8 * gib)).toThrow("slots");
});

test("a refusal of a whole context says what a cut one would take", () => {
  let error: PsionicError | undefined;
  try {
    planMemory(shape(2 ** 20), { wholeContext: true }, 2 * gib);
  } catch (e) {
    error = e as PsionicError;
  }
  const { neededBytes, leastBytes } = error!.details as Record<string, number>;
  expect(planMemory(shape(2 ** 20), { wholeContext: true }, neededBytes!).contextLength).toBe(2 ** 20);
  expect(() => planMemory(shape(2 ** 20), { wholeContext: true }, neededBytes! - 1)).toThrow("memory plan");
  expect(planMemory(shape(2 ** 20), {}, leastBytes!).contextLength).toBe(32);
  expect(() => planMemory(shape(2 ** 20), {}, leastBytes! - 1)).toThrow("memory plan");
});

test("states of recurrent layers: a slot for each sequence first, then copies, fewer where memory is short", () => {
  const recurrent = { layers: [0, 1], convolution: [3, 1024], memory: [16, 128, 128] };
  const one = 2 * 4 * (3 * 1024 + 16 * 128 * 128);
  const plan = (gibibytes: number, slots?: number) =>
    planMemory({ ...shape(4096), recurrent }, slots ? { slots } : {}, gibibytes * gib);
  const ample = plan(16);
  expect(ample.stateSlots).toBe(8 + 32);
  expect(ample.memory.cacheBytes).toBe(planMemory(shape(4096), {}, 16 * gib).memory.cacheBytes + 40 * one);
  expect(planMemory(shape(4096), {}, 16 * gib).stateSlots).toBe(0);
  const short = plan(1.5, 8);
  expect(short.stateSlots).toBeGreaterThanOrEqual(8);
  expect(short.stateSlots).toBeLessThan(40);
  expect(short.memory.totalBytes).toBeLessThan(1.5 * gib);
  expect(() => plan(1.5, 256)).toThrow("memory plan");
});

test("this machine's memory is a positive number", () => {
  expect(availableMemory()).toBeGreaterThan(2 ** 26);
});
