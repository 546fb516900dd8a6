import { createReadStream } from "node:fs";
import { join } from "node:path";
import { unexpected } from "../../core/error.ts";
import { openModelFiles } from "../../models/files/source.ts";
import type { StoredModel } from "../../models/store/manifest.ts";
import { type AnyCommand, command } from "../../terminal/command.ts";
import { print, printJson } from "../../terminal/output.ts";
import { Progress } from "../../terminal/progress.ts";
import { readableBytes, readableCount, table } from "../../terminal/table.ts";
import { quantization } from "../engine/quantization.ts";
import { storedFacts, storedModel } from "./stored_facts.ts";

export const show: AnyCommand = command({
  meta: {
    name: "show",
    description: "Shows a model of the store: origin, files with digests, what its headers say.",
  },
  args: {
    model: { type: "positional", required: true, description: "Name of a pulled model" },
    verify: { type: "boolean", description: "Read every file and compare its digest" },
    json: { type: "boolean", description: "Print as JSON" },
  },
  examples: ["psionic show ggml-org/gemma-3-1b-it-GGUF:Q4_K_M", "psionic show gemma --verify --json"],
  async run({ args }) {
    const stored = storedModel(args.model);
    if (args.verify) await verify(stored);
    const facts = storedFacts(stored);
    const header = headerFacts(stored);
    if (args.json) return printJson({ ...facts, ...header, ...(args.verify ? { verified_now: true } : {}) });
    const rows = [
      ["name", facts.name],
      ["path", facts.path],
      ["source", facts.source],
      ...(facts.revision === null ? [] : [["revision", facts.revision]]),
      ["pulled", facts.pulled_at],
      ["family", header.architecture],
      ["parameters", readableCount(header.parameters)],
      ["quantisation", header.quantization],
      ["size", readableBytes(facts.bytes)],
    ];
    const files = facts.files.map(({ path, bytes, sha256, verified }) => [
      ...[`  ${path}`, readableBytes(bytes), sha256, verified ? "as promised" : "recorded"],
    ]);
    await print(
      `${table(rows)}\nfiles\n${table(files, [1])}${args.verify ? "\nEvery digest is right." : ""}`,
    );
  },
});

function headerFacts({ path }: StoredModel) {
  const files = openModelFiles(path);
  const tensors = [...files.tensors.values()];
  return {
    architecture: files.architecture,
    parameters: tensors.reduce((sum, { shape }) => sum + shape.reduce((n, size) => n * size, 1), 0),
    quantization: quantization(files),
  };
}

/** Throws `digest_mismatch` with the first file that is not what was pulled. */
async function verify({ manifest, folder }: StoredModel): Promise<void> {
  const progress = new Progress();
  const total = manifest.files.reduce((sum, { bytes }) => sum + bytes, 0);
  let done = 0;
  try {
    for (const { path, sha256 } of manifest.files) {
      const hasher = new Bun.CryptoHasher("sha256");
      for await (const bytes of createReadStream(join(folder, path), { highWaterMark: 2 ** 22 })) {
        hasher.update(bytes as Uint8Array);
        done += (bytes as Uint8Array).length;
        progress.update("verify", done, total);
      }
      const got = hasher.digest("hex");
      if (got === sha256) continue;
      throw unexpected("digest_mismatch", path, `the digest ${sha256}`, got, {
        fix: `The file is damaged: psionic rm ${manifest.name}, then pull it again`,
      });
    }
  } finally {
    progress.end();
  }
}
