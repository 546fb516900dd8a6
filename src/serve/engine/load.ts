import { readFileSync } from "node:fs";
import { kernelLibraryPath, openDevice, useLibrary } from "../../backends/index.ts";
import { unexpected } from "../../core/error.ts";
import { openAdapter } from "../../models/adapter.ts";
import { ContentDigest } from "../../models/files/content_digest.ts";
import { type ModelFiles, openModelFiles } from "../../models/files/source.ts";
import type { CacheType, Model } from "../../models/model.ts";
import { type Pooling, poolingOf } from "../../models/pooling.ts";
import { loadModel } from "../../models/registry.ts";
import type { Device } from "../../runtime/device.ts";
import { makeStore } from "../prefix_store/files.ts";
import type { AdapterFacts, EngineInfo, EngineOptions, PrefixDisk } from "../protocol.ts";
import { boundAdapter } from "./adapter.ts";
import { backendLimits } from "./backend_limits.ts";
import type { DiskTierOptions } from "./disk_tier.ts";
import { ModelExecutor } from "./executor.ts";
import type { LoadedEngine } from "./loop.ts";
import { availableMemory } from "./memory.ts";
import type { LoadProgress } from "./messages.ts";
import { type ModelPlan, planModel } from "./model_plan.ts";
import { pageSize, pagesFor } from "./pages.ts";
import type { PoolingPlan } from "./pooling.ts";
import { quantization } from "./quantization.ts";
import { backendTruths } from "./truth.ts";

/** Opens the device that was asked for; throws when it is not there. */
export function openEngineDevice(choice: DeviceChoice): Device {
  const { backend, device, threads, isa, libraryPath } = choice;
  if (libraryPath !== undefined) useLibrary(backend, libraryPath);
  if (backend === "cpu") return openDevice("cpu", { threads, isa });
  return backend === "cuda" ? openDevice("cuda", { number: device }) : openDevice(backend);
}

type DeviceChoice = Pick<EngineOptions, "backend" | "device" | "threads" | "isa" | "libraryPath">;

/** Opens the device, plans its memory, places the weights and allocates the caches. */
export async function loadEngine(
  options: EngineOptions,
  onProgress: (progress: LoadProgress) => void,
): Promise<LoadedEngine> {
  const start = performance.now();
  const files = openModelFiles(options.modelPath);
  const adapter = options.adapter && openAdapter(options.adapter.path);
  const device = openEngineDevice(options);
  const { backend } = device;
  try {
    const hostBytes = Math.min(availableMemory(), options.memoryBytes ?? Infinity);
    const plan = planModel(files, options, backend.memory?.().free ?? hostBytes, adapter);
    // temporaries of every step fit into one block, so that none allocates while it runs
    if (backend.memory) device.arena.reserve(plan.memory.workspaceBytes);
    const model = loadModel(device, files, {
      numerics: options.numerics ?? "reference",
      onProgress: reported("weights", onProgress),
      ...(adapter && { adapter }),
    });
    const declared = poolingOf(files);
    const executor = new ModelExecutor(
      device,
      model,
      plan.groups,
      plan.cacheType,
      {
        slots: plan.slots,
        maxPages: pagesFor(plan.contextLength),
        stateSlots: plan.stateSlots,
      },
      poolingPlan(model, declared),
    );
    const digest = startDigest(files);
    const bound =
      adapter &&
      options.adapter &&
      boundAdapter(options.adapter, adapter, { files, name: model.config.name, digest });
    return {
      executor,
      groups: plan.groups,
      stateSlots: plan.stateSlots,
      promptLimits: backendLimits[options.backend].prompt,
      ...(options.prefixDisk && {
        prefixDisk: diskOptions(options, options.prefixDisk, device, model, plan.cacheType, bound),
      }),
      info: {
        ...describeEngine(files, model, plan, device, {
          digest: digest.value ?? null,
          loadMs: performance.now() - start,
          declared,
        }),
        ...(bound && { adapter: bound }),
      },
      digest,
      arenaPeakBytes: () => device.arena.peakBytes,
      deviceMemoryBytes: () => {
        const memory = backend.memory?.();
        return memory ? memory.total - memory.free : 0;
      },
      close() {
        digest[Symbol.dispose]();
        executor.free();
        model.free();
        device.close();
      },
    };
  } catch (error) {
    closeAfterFailure(device);
    throw error;
  }
}

/** Hashing more than this waits for idle moments after loading. */
const mostHashedAtLoad = 64 * 2 ** 20;

function startDigest(files: ModelFiles): ContentDigest {
  const digest = new ContentDigest(files.files);
  if (digest.remainingBytes > mostHashedAtLoad) return digest;
  while (digest.value === undefined) digest.advance();
  return digest;
}

/** The failure that led here is the one to report; what it left on the device is freed without a complaint of its own. */
function closeAfterFailure(device: Device): void {
  try {
    device.close();
  } catch {
    // in test mode the device names what the failed load left, which is expected here
  }
}

/** Reports whole per cent, so that a load of ten thousand tensors sends a hundred messages. */
function reported(stage: string, onProgress: (progress: LoadProgress) => void) {
  let last = -1;
  return (done: number, total: number) => {
    const percent = Math.floor((100 * done) / Math.max(total, 1));
    if (percent === last) return;
    last = percent;
    onProgress({ stage, done, total });
  };
}

/** Where the files say nothing: the mean of all hidden states. */
function poolingPlan({ config, classifier }: Model, declared: Pooling | undefined): PoolingPlan {
  const { width } = config;
  if (declared !== "rank") return { pooling: declared ?? "mean", width };
  if (classifier) return { pooling: "rank", width, classifier };
  throw unexpected(
    "file_malformed",
    "pooling",
    "cls.output.weight in a file whose pooling is a rank",
    "none",
  );
}

/** Pages are worth something only where the same library computes the same model on the same kind of device. */
function diskOptions(
  { backend, numerics = "reference", libraryPath: copy }: EngineOptions,
  { folder, limitBytes }: PrefixDisk,
  device: Device,
  model: Model,
  cacheType: CacheType,
  adapter: AdapterFacts | undefined,
): Omit<DiskTierOptions, "warn"> {
  makeStore(folder);
  const library = readFileSync(copy ?? kernelLibraryPath(backend));
  const { isa = "", device: name = "" } = device.backend.info();
  return {
    ...{ folder, limitBytes },
    facts: {
      ...{ backend, numerics, cacheType, pageSize },
      ...(adapter && { adapter: adapter.servedDigest }),
      library: `${library.length}:${Bun.hash.xxHash3(library).toString(16)}`,
      device: `${isa} ${name}`,
      layout: { groups: model.cacheGroups, recurrent: model.recurrent ?? null },
    },
  };
}

type LoadFacts = {
  readonly digest: string | null;
  readonly loadMs: number;
  /** What the files say of pooling. */
  readonly declared: Pooling | undefined;
};

function describeEngine(
  files: ModelFiles,
  model: Model,
  plan: ModelPlan,
  device: Device,
  { digest, loadMs, declared }: LoadFacts,
): EngineInfo {
  const { architecture, name, vocabularySize, contextLength } = model.config;
  const { slots, maxQueue, memory, planDigest, notes } = plan;
  const { backend } = device;
  return {
    model: {
      ...{ path: files.path, architecture, name, digest, vocabularySize },
      trainedContext: contextLength,
      parameters: model.parameters,
      weightBytes: model.weightBytes,
      quantization: quantization(files),
    },
    embedding: {
      dimensions: declared === "rank" ? (model.classifier?.bias.length ?? 0) : model.config.width,
      pooling: declared ?? "mean",
      declared: declared !== undefined,
    },
    backend: backendTruths[backend.name === "meta" ? "cpu" : backend.name],
    ...(backend.memory ? { device: backend.info() } : {}),
    contextLength: plan.contextLength,
    ...{ slots, maxQueue, memory, planDigest, loadMs, notes },
  };
}
