import type { AnyCommand } from "../terminal/command.ts";

/** A command, or a first word of one, with a contract of its own: it reads its words itself, prints, and gives the exit code. */
export type OwnAction = (words: readonly string[]) => number | Promise<number>;

export type CommandEntry = {
  readonly description: string;
  readonly load: () => Promise<AnyCommand>;
  /** Where the whole command has a contract of its own; all but `--help` alone goes to it. */
  readonly own?: () => Promise<OwnAction>;
  readonly actions?: Readonly<Record<string, ActionEntry>>;
};

/** A first word of a command: one with options of its own, or with a contract of its own. */
export type ActionEntry = { readonly description: string } & (
  | { readonly load: () => Promise<AnyCommand>; readonly own?: never }
  | { readonly own: () => Promise<OwnAction>; readonly load?: never }
);

export const description = "serves language models from one executable";

/** Every command. A command's own module is loaded when it is wanted, so that the others cost nothing. */
export const commands: Readonly<Record<string, CommandEntry>> = {
  serve: {
    description: "Serve a model over HTTP, as OpenAI's API",
    load: async () => (await import("../serve/cli/serve.ts")).serve,
  },
  run: {
    description: "Chat with a model in the terminal, or answer one prompt",
    load: async () => (await import("../serve/cli/run.ts")).run,
  },
  inspect: {
    description: "Show a model file: metadata, tensors, experts, the memory plan",
    load: async () => (await import("../serve/cli/inspect.ts")).inspect,
  },
  pull: {
    description: "Bring a model into the store, from Hugging Face or an address",
    load: async () => (await import("../serve/cli/pull.ts")).pull,
  },
  list: {
    description: "List the models in the store",
    load: async () => (await import("../serve/cli/list.ts")).list,
  },
  show: {
    description: "Show a model of the store: its files, digests, origin",
    load: async () => (await import("../serve/cli/show.ts")).show,
  },
  rm: {
    description: "Remove models from the store",
    load: async () => (await import("../serve/cli/rm.ts")).rm,
  },
  ps: {
    description: "List running servers with their models",
    load: async () => (await import("../serve/cli/ps.ts")).ps,
  },
  service: {
    description: "Make a systemd or launchd service of the server",
    load: async () => (await import("../serve/cli/service.ts")).service,
  },
  tokenize: {
    description: "Turn text into token ids",
    load: async () => (await import("../models/cli/tokenize.ts")).tokenize,
  },
  detokenize: {
    description: "Turn token ids into text",
    load: async () => (await import("../models/cli/detokenize.ts")).detokenize,
  },
  logits: {
    description: "Write the logits of a list of token ids",
    load: async () => (await import("../models/cli/logits.ts")).logits,
  },
  bench: {
    description: "Measure prompt and generation speed against this machine's limits",
    load: async () => (await import("../serve/cli/bench.ts")).bench,
  },
  conformance: {
    description: "Probe a server for what its clients require",
    load: async () => (await import("../serve/cli/conformance.ts")).conformance,
  },
  data: {
    description: "Prepare text for training: corpora, splits, duplicates, tokenizers, token shards",
    load: async () => (await import("../data/cli/data.ts")).data,
  },
  train: {
    description: "Train a model in a run root, go on with a run, or show how it stands",
    load: async () => (await import("../train/cli/train.ts")).train,
    actions: {
      "docs-chat": {
        description: "Train a small chat model on documents and questions about them, as GGUF, and score it",
        load: async () => (await import("../train/cli/docs_chat.ts")).docsChat,
      },
      golf: {
        description: "Train Parameter Golf's baseline, score it in bits per byte, quantise and pack it",
        load: async () => (await import("../train/cli/golf.ts")).golf,
      },
      manifest: {
        description: "Do the one operation that a supervisor's manifest names",
        own: async () => (await import("../machine/cli/manifest.ts")).trainManifest,
      },
      watch: {
        description: "Show how a run stands, in the terminal or on a page",
        load: async () => (await import("../machine/cli/watch.ts")).watch,
      },
      "serve-checkpoint": {
        description: "Give the checkpoint that was handed over to the peer that fetches it",
        load: async () => (await import("../machine/cli/handoff.ts")).serveCheckpoint,
      },
      "fetch-checkpoint": {
        description: "Bring a checkpoint from a peer, for resume to take over",
        load: async () => (await import("../machine/cli/handoff.ts")).fetchCheckpoint,
      },
    },
  },
  "validate-contribution": {
    description: "Do the work of a contribution again and leave a verdict",
    load: async () => (await import("../machine/cli/validate.ts")).validate,
    own: async () => (await import("../machine/cli/validate.ts")).validateContribution,
  },
  schema: {
    description: "List the typed documents of the machine runtime, or print one as JSON Schema",
    load: async () => (await import("../machine/cli/schema.ts")).schema,
  },
  doctor: {
    description: "Say what this machine offers and why something is not used",
    load: async () => (await import("./doctor.ts")).doctor,
  },
  completions: {
    description: "Print a completion script for bash, zsh or fish",
    load: async () => (await import("./completions.ts")).completions,
  },
};
