/** The stand-in of Metal for tests above the kernels: built if stale, the library that `metal-standin` loads. */
import { join } from "node:path";
import { buildMetalStandin, standinMissing } from "../../../kernels/build_metal.ts";

/** Path of the library; undefined, with the reason on stderr, where there is no compiler for it. */
export const metalStandin: string | undefined = await place();

async function place(): Promise<string | undefined> {
  const missing = standinMissing();
  if (missing) {
    console.warn(`skipping tests of the Metal backend: ${missing}`);
    return undefined;
  }
  return buildMetalStandin(join(import.meta.dir, "../../../.cache/native"), "standin");
}
