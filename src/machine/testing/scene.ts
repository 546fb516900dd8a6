import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { orderedJson } from "../../core/json.ts";
import { parseExactJson } from "../../core/json_reader.ts";
import { parsed } from "../documents.ts";
import { type Example, exampleManifests } from "../examples.ts";
import type { SourceState } from "../identity.ts";
import { invoke } from "../invoke.ts";
import { invocationManifest, manifestDigest } from "../manifest.ts";
import type { StatusPacket } from "../packets.ts";

/** Syncing costs nothing here, and it is most of what an invocation waits for. */
const memory = existsSync("/dev/shm") ? "/dev/shm" : tmpdir();

export const source: SourceState = {
  commit: "1111222233334444555566667777888899990000",
  ...{ admission: "packaged_clean_release", status: null },
};

/** A folder with a packaged runtime and one run root, in which manifests are carried out one after the other. */
export class Scene implements Disposable {
  readonly folder = mkdtempSync(join(memory, "psionic-machine-"));
  readonly root = join(this.folder, "run");
  readonly packaged = join(this.folder, "packaged");
  readonly manifestPath = join(this.folder, "manifest.json");
  /** Milliseconds; moves only when a test says so. */
  now = 1_000_000;

  constructor() {
    mkdirSync(this.packaged);
    writeFileSync(join(this.packaged, ".openagents-psionic-revision"), `${source.commit}\n`);
  }

  /** An example by name with changes, its digest filled in unless it is among them. */
  manifest(name: string, changes: Example = {}): Example {
    const place = { source, ref: "packaged-runtime", root: () => this.root };
    const value = { ...exampleManifests(place)[name], ...changes };
    if ("manifest_digest" in changes) return value;
    return { ...value, manifest_digest: manifestDigest(parsed(invocationManifest, value, name)) };
  }

  write(manifest: Example): readonly string[] {
    writeFileSync(this.manifestPath, orderedJson(manifest, 2));
    return ["--manifest", this.manifestPath];
  }

  environment(extra: NodeJS.ProcessEnv = {}): NodeJS.ProcessEnv {
    return { OPENAGENTS_PSIONIC_REPO: this.packaged, ...extra };
  }

  run(name: string, changes: Example = {}): StatusPacket {
    const words = this.write(this.manifest(name, changes));
    return invoke(words, { environment: this.environment(), clock: () => this.now });
  }

  /** Parsed document below the run root. */
  read(relative: string): Record<string, unknown> {
    const path = join(this.root, relative);
    return parseExactJson(readFileSync(path, "utf8"), path) as Record<string, unknown>;
  }

  [Symbol.dispose](): void {
    rmSync(this.folder, { recursive: true, force: true });
  }
}

/** A manifest bound to a window. */
export const bound = {
  ...{ network_id: "network.example", window_id: "window-0001", assignment_id: "assignment-0001" },
  node_pubkey: "npub1-node-a",
};
