import { basename } from "node:path";
import { unexpected } from "../../core/error.ts";
import type { EngineInfo } from "../protocol.ts";

/** What a request calls a model with an adapter: `base:adapter`. */
export const withAdapter = (base: string, adapter: { readonly name: string } | undefined): string =>
  adapter ? `${base}:${adapter.name}` : base;

/** The public name: that of the file or folder, with that of an adapter. */
export const publicName = ({ model, adapter }: Pick<EngineInfo, "model" | "adapter">): string =>
  withAdapter(basename(model.path), adapter);

/** What a model may be called by. */
export type Named = {
  readonly name: string;
  readonly aliases: readonly string[];
  /** `name@sha256:digest`; without the digest as long as it is not known. */
  readonly id: string;
};

/** `name@sha256:digest`, which stays the same when the file is moved; the name alone until the digest is known. */
export function modelId({ model, adapter }: Pick<EngineInfo, "model" | "adapter">): string {
  const name = withAdapter(idName(model.name, model.path), adapter);
  if (adapter) return `${name}@sha256:${adapter.servedDigest}`;
  if (model.digest === null) return name;
  return `${name}@${model.digest.includes(":") ? model.digest : `sha256:${model.digest}`}`;
}

/** The part of an id before the digest: the model's own title, else the file's name, in lower case with dashes. */
export function idName(title: string, path: string): string {
  return (title === "" ? stem(basename(path)) : title)
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, "-")
    .replace(/^-|-$/g, "");
}

function stem(name: string): string {
  return name.replace(/\.gguf$/i, "");
}

/**
 * The one that a request's `model` means: by file name, the same without ending, a further name, or its id with or
 * without the digest, the first kind that fits. Throws `invalid_request` where that fits several.
 */
export function findNamed<T extends Named>(all: readonly T[], asked: string): T | undefined {
  const kinds: readonly ((one: T) => boolean)[] = [
    ({ name }) => name === asked,
    ({ name }) => stem(name) === asked,
    ({ aliases }) => aliases.includes(asked),
    ({ id }) => id === asked || id.replace(/@sha256:[0-9a-f]+$/, "") === asked,
  ];
  for (const fits of kinds) {
    const found = all.filter(fits);
    if (found.length === 0) continue;
    if (found.length === 1) return found[0];
    const names = found.map(({ name }) => name).join(", ");
    throw unexpected("invalid_request", "model", "a name of one model", `${asked}, which is ${names}`, {
      details: { param: "model" },
    });
  }
  return undefined;
}
