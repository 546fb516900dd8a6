import { unexpected } from "../../core/error.ts";
import { findStored, type StoredModel, storedModels } from "../../models/store/manifest.ts";

/** A model of the store as JSON shows it. */
export function storedFacts({ manifest, folder, path }: StoredModel) {
  const { name, source, revision, files, pulledAtMs } = manifest;
  return {
    ...{ name, path, folder, source, revision },
    bytes: files.reduce((sum, file) => sum + file.bytes, 0),
    pulled_at: new Date(pulledAtMs).toISOString(),
    files,
  };
}

/** The model of a name; throws `model_not_found` with what there is. */
export function storedModel(name: string): StoredModel {
  const found = findStored(name);
  if (found) return found;
  const names = storedModels().map(({ manifest }) => manifest.name);
  throw unexpected("model_not_found", "model store", "the name of a pulled model", name, {
    fix: names.length > 0 ? `There is ${names.slice(0, 20).join(", ")}` : "Nothing was pulled yet",
  });
}
