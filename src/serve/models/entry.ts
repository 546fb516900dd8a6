import { basename } from "node:path";
import { capabilities, endpointsOf } from "../http/model_card.ts";
import type { ServedModel } from "../http/options.ts";
import { idName, modelId, type Named, withAdapter } from "./names.ts";
import type { LoadState, ModelHeader, ModelRow, ModelSource } from "./source.ts";

/** A model of the set as it is now; only the set changes it. */
export class Entry implements Named {
  readonly source: ModelSource;
  state: LoadState = "unloaded";
  served: ServedModel | undefined;
  /** From the first request that wants it until it is there or has failed. */
  loading: Promise<ServedModel> | undefined;
  /** Requests that hold it. */
  requests = 0;
  /** Number of the last use, counted over the whole set; 0 = never. */
  used = 0;
  lastUsedMs: number | null = null;
  loads = 0;
  error: string | undefined;
  timer: ReturnType<typeof setTimeout> | undefined;

  constructor(source: ModelSource) {
    this.source = source;
    this.header = source.header;
  }

  /** Of the headers, or of what loading told; stays after unloading. */
  header: ModelHeader | undefined;

  get name(): string {
    if (this.source.name !== "") return this.source.name;
    return this.header ? withAdapter(basename(this.header.path), this.header.adapter) : "";
  }

  /** It is there: what it is called is known from now on. */
  arrived(served: ServedModel): void {
    this.served = served;
    this.state = "loaded";
    this.loads += 1;
    this.error = undefined;
    this.header = headerOf(served);
  }

  get aliases(): readonly string[] {
    return this.source.aliases;
  }

  get id(): string {
    if (this.served) return modelId(this.served.engine.info);
    const { header } = this;
    return header ? withAdapter(idName(header.title, header.path), header.adapter) : "";
  }

  /** Bytes of its plan in host memory; 0 for one that computes in a device's own. */
  get hostBytes(): number {
    if (!this.served || this.served.engine.info.device) return 0;
    return this.served.engine.info.memory.totalBytes;
  }

  row(isDefault: boolean): ModelRow {
    const { name, id, state, requests, lastUsedMs, loads, served, error, header } = this;
    return {
      ...{ name, id, state, isDefault, requests, lastUsedMs, loads },
      ...(served ? { served } : {}),
      ...(header ? { header } : {}),
      ...(error === undefined ? {} : { error }),
    };
  }
}

function headerOf({ engine, chat }: ServedModel): ModelHeader {
  const { model, backend, contextLength, adapter } = engine.info;
  const { architecture, name, trainedContext, parameters, weightBytes, quantization, path } = model;
  return {
    ...{ architecture, title: name, trainedContext, parameters, weightBytes, quantization, path, backend },
    ...(adapter && { adapter: { name: adapter.name } }),
    lastLoad: {
      contextLength,
      capabilities: capabilities(chat, engine.info),
      endpoints: endpointsOf(engine.info),
    },
  };
}
