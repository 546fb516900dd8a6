import type { ServedModel } from "../http/options.ts";
import type { BackendTruth } from "../protocol.ts";

/** What the headers of a model say, for lists of models that are not loaded. */
export type ModelHeader = {
  readonly architecture: string;
  /** `general.name`, or empty. */
  readonly title: string;
  readonly trainedContext: number | null;
  /** Elements and bytes of the file's tensors. */
  readonly parameters: number;
  readonly weightBytes: number;
  readonly quantization: string;
  readonly path: string;
  /** Of a model with an adapter. */
  readonly adapter?: { readonly name: string };
  /** What was known when it was loaded last. */
  readonly lastLoad?: {
    readonly contextLength: number;
    readonly capabilities: readonly string[];
    readonly endpoints: readonly string[];
  };
  /** Which code would execute it. */
  readonly backend: BackendTruth;
};

/** In what company a model is loaded. */
export type LoadRoom = {
  /** Bytes of host memory that it may plan with. */
  readonly memoryBytes: number;
  /** Others may want to be loaded too: caches of a default size hold one context. */
  readonly shared: boolean;
  /** Others are loaded: a context that does not fit whole is refused, not cut. */
  readonly whole: boolean;
};

/** A model that can be loaded, and again after it was unloaded. */
export type ModelSource = {
  /** The public name: that of the file or folder. Empty when only loading tells. */
  readonly name: string;
  /** Further names that a request may use. */
  readonly aliases: readonly string[];
  /** Absent where a model is only known once it is loaded. */
  readonly header?: ModelHeader;
  readonly open: (room: LoadRoom) => Promise<ServedModel>;
};

export type LoadState = "unloaded" | "loading" | "loaded" | "unloading" | "failed";

/** A model as lists show it. */
export type ModelRow = {
  readonly id: string;
  readonly name: string;
  readonly state: LoadState;
  readonly isDefault: boolean;
  /** While it is loaded. */
  readonly served?: ServedModel;
  readonly header?: ModelHeader;
  /** Requests that hold it. */
  readonly requests: number;
  /** Unix time of the last request's end, milliseconds. */
  readonly lastUsedMs: number | null;
  readonly loads: number;
  /** Code of the error that the last load ended in. */
  readonly error?: string;
};
