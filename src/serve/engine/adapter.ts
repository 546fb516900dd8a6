/** The adapter of an engine: opened, held against its base, and what is told of it. */
import { sha256 } from "../../core/digest.ts";
import { unexpected } from "../../core/error.ts";
import type { Adapter } from "../../models/adapter.ts";
import type { ContentDigest } from "../../models/files/content_digest.ts";
import type { ModelFiles } from "../../models/files/source.ts";
import type { AdapterFacts, EngineOptions } from "../protocol.ts";
import { quantization } from "./quantization.ts";

/** Throws `digest_mismatch` where the base is another than the adapter was trained on, where its settings tell; the base's digest. */
export function checkBase(
  { name }: NonNullable<EngineOptions["adapter"]>,
  { baseDigest }: Pick<Adapter, "baseDigest">,
  digest: ContentDigest,
): string {
  while (digest.value === undefined) digest.advance();
  const served = digest.value;
  if (baseDigest === undefined || served === `sha256:${baseDigest}`) return served;
  const expected = `the base that it was trained on, sha256:${baseDigest}`;
  throw unexpected("digest_mismatch", `adapter ${name}`, expected, served, {
    fix: "Serve it with its own base",
  });
}

/** The base is hashed as a whole, since a served adapter names it. Throws `digest_mismatch` as `checkBase`. */
export function boundAdapter(
  named: NonNullable<EngineOptions["adapter"]>,
  adapter: Adapter,
  base: { readonly files: ModelFiles; readonly name: string; readonly digest: ContentDigest },
): AdapterFacts {
  const { name } = named;
  const { path, rank, alpha, parameters, digest } = adapter;
  const served = checkBase(named, adapter, base.digest);
  const of = [base.name, served, served];
  // what the weights are multiplied by is part of what is served, so a revision is of both
  const revision = `${digest}:${rank}:${alpha}`;
  const identity = sha256(
    [
      ...["psionic_adapter_identity", name, revision, "lora", "safetensors", ...of],
      ...[digest, quantization(base.files), "decoder_composite", String(parameters)],
    ].join("|"),
  );
  const binding = [
    "psionic_adapter_binding",
    `${base.name}:${name}`,
    ...of,
    "hot_swap_overlay",
    "adapter",
    identity,
  ];
  return { name, path, rank, alpha, parameters, digest, servedDigest: sha256(binding.join("|")) };
}
