import { PsionicError } from "../../core/error.ts";
import { pullExitCodes } from "../../models/store/exit_codes.ts";
import { type Pulled, pullModel } from "../../models/store/pull.ts";
import { defaultConnections } from "../../models/store/transfer.ts";
import { type AnyCommand, command, ExitError, wholeNumber } from "../../terminal/command.ts";
import { messages, print, printJson } from "../../terminal/output.ts";
import { Progress } from "../../terminal/progress.ts";
import { readableBytes } from "../../terminal/table.ts";

export const pull: AnyCommand = command({
  meta: {
    name: "pull",
    description:
      "Brings a model into the store: of Hugging Face or a server like it (HF_ENDPOINT), or a GGUF file at an address. " +
      "What was interrupted goes on where it was. A token is taken from HF_TOKEN.",
  },
  args: {
    model: {
      type: "positional",
      required: true,
      description:
        "org/repo, org/repo:QUANTISATION, org/repo:FILE, hf.co/..., or the address of a .gguf file",
    },
    connections: {
      type: "string",
      default: String(defaultConnections),
      valueHint: "N",
      description: "Requests at once",
    },
    json: { type: "boolean", description: "Print the result as JSON" },
  },
  examples: [
    "psionic pull ggml-org/gemma-3-1b-it-GGUF",
    "psionic pull unsloth/Qwen3-8B-GGUF:Q8_0",
    "psionic pull Qwen/Qwen3-0.6B",
    "psionic pull https://example.org/models/model.gguf --json",
  ],
  async run({ args }) {
    const connections = wholeNumber(args.connections, "--connections", 1, 64)!;
    const stop = new AbortController();
    process.once("SIGINT", () => stop.abort());
    process.once("SIGTERM", () => stop.abort());
    const progress = new Progress();
    let pulled: Pulled;
    try {
      pulled = await pullModel(args.model, {
        ...{ connections, signal: stop.signal },
        onProgress: (stage, done, total) => progress.update(stage, done, total),
        onPlan: ({ name, files }) => {
          if (!args.json) messages.info(`${name}, ${files === 1 ? "one file" : `${files} files`}`);
        },
      });
    } catch (error) {
      const exitCode = error instanceof PsionicError ? pullExitCodes[error.code] : undefined;
      throw exitCode === undefined ? error : new ExitError(exitCode, error as PsionicError);
    } finally {
      progress.end();
    }
    await report(pulled, args.json ?? false);
  },
});

async function report({ model, state }: Pulled, json: boolean): Promise<void> {
  const { manifest, path } = model;
  const { name, source, revision, files } = manifest;
  const bytes = files.reduce((sum, file) => sum + file.bytes, 0);
  if (json) return printJson({ name, state, path, source, revision, bytes, files });
  const unverified = files.filter(({ verified }) => !verified).length;
  const digest =
    unverified === 0 ? "digests as the host said" : "digests recorded; the host had not said them before";
  await print(`${name}: ${state}, ${readableBytes(bytes)}, ${digest}\n${path}`);
}
