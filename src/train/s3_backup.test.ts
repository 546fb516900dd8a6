/** Backups in an S3-compatible store: kept, given back by their digests, and what a store that fails leaves behind. */
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "bun:test";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { sha256 } from "../core/digest.ts";
import { backupStore } from "./backup_store.ts";
import { stateSchema, verifyCheckpoint } from "./checkpoint.ts";
import type { GitState } from "./git_state.ts";
import { referencePilot } from "./lanes/reference_pilot.ts";
import { backUpRun, type RunOptions, resumeRun, startRun } from "./run.ts";
import { type Run, retainedPaths } from "./run_root.ts";
import { S3Peer } from "./testing/s3_peer.ts";

const git: GitState = {
  ...{ selected_git_ref: "refs/heads/main", git_commit_sha: "0".repeat(40) },
  ...{ dirty_tree_admission: "refuse_by_default", workspace_status_sha256: null },
};
const options: RunOptions = { threads: 1, dryRun: false, watcher: {}, stopping: () => false };
const to = "s3://backups/runs/one";

let folder: string;
let run: Run;
let begun: NodeJS.ProcessEnv;
beforeAll(async () => {
  begun = { ...process.env };
  folder = mkdtempSync(join(tmpdir(), "psionic-s3-"));
  const settings = {
    ...referencePilot.defaults,
    model: "tiny",
    max_steps: 2,
    steps_per_window: 1,
    sequences: 2,
  };
  run = { root: join(folder, "run"), runId: "one", lane: referencePilot, git, settings };
  await startRun(run, options);
});
afterAll(() => rmSync(folder, { recursive: true }));

const json = (path: string) => JSON.parse(readFileSync(join(run.root, path), "utf8"));
const receipt = () => json(retainedPaths.latest_checkpoint_backup_receipt_path);
const setTo = (environment: Record<string, string>): void => {
  for (const name of Object.keys(process.env)) if (/^(AWS|S3)_/.test(name)) delete process.env[name];
  Object.assign(process.env, environment);
};

describe("a bucket", () => {
  let peer: S3Peer;
  beforeEach(() => {
    peer = new S3Peer();
    setTo(peer.environment);
    rmSync(join(run.root, retainedPaths.latest_checkpoint_backup_receipt_path), { force: true });
    return () => setTo(begun as Record<string, string>);
  });

  test("takes the checkpoint's files, what names them last; the receipt names variables, no secrets", async () => {
    await using _ = peer;
    const { digest } = await backUpRun(run, to);
    const at = `backups/runs/one/step-2/${digest.slice(0, 16)}`;
    expect([...peer.objects.keys()]).toEqual(
      ["checkpoint_manifest.json", "model.safetensors", "optimizer.safetensors", "trainer_state.json"].map(
        (name) => `${at}/${name}`,
      ),
    );
    const written = readFileSync(join(run.root, "checkpoints/step-2/model.safetensors"));
    expect(written.equals(peer.objects.get(`${at}/model.safetensors`)!)).toBe(true);
    expect(receipt()).toMatchObject({
      ...{ backup_state: "backed_up", upload_outcome: "succeeded", remote_backup_root: to },
      credential_source_names: ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"],
    });
    const text = JSON.stringify(receipt());
    for (const hidden of ["peer-key", "peer-secret", "127.0.0.1"]) expect(text).not.toContain(hidden);
  });

  test("gives a damaged checkpoint back, hashed; a run goes on from it", async () => {
    await using _ = peer;
    await backUpRun(run, to);
    const model = join(run.root, "checkpoints/step-2/model.safetensors");
    const whole = readFileSync(model);
    writeFileSync(model, whole.subarray(0, 1000));
    const further = { ...run, settings: { ...run.settings, max_steps: 3 } };
    const outcome = await resumeRun(further, options);
    expect(outcome.completedSteps).toBe(3);
    expect(json(retainedPaths.auto_resume_receipt_path)).toMatchObject({
      ...{
        resolution_state: "recovered_from_backup",
        resume_source_kind: "backup_receipt",
        chosen_optimizer_step: 2,
      },
    });
    expect(readFileSync(model).equals(whole)).toBe(true);
    expect(json("checkpoints/failures/stale_pointer_drill.json").outcome).toBe(
      "recovered_without_manual_edit",
    );
    // back to where the other tests are
    rmSync(run.root, { recursive: true });
    await startRun(run, options);
  });

  test.each([
    ["forbidden", { forbidden: true }, /AccessDenied/],
    ["corrupt", { corrupt: "optimizer" }, /optimizer\.safetensors\] expected SHA-256/],
    ["cut off when it is read again", { breakOff: "model" }, /model\.safetensors/],
    ["gone in the middle", { vanish: "optimizer" }, /optimizer\.safetensors to be taken/],
  ] as const)(
    "that is %s: a refusal is recorded, the checkpoint stays, a later copy is good",
    async (_, faults, why) => {
      await using failing = peer;
      failing.faults = faults;
      await expect(backUpRun(run, to)).rejects.toThrow(why);
      expect(receipt()).toMatchObject({ backup_state: "refused", upload_outcome: "failed" });
      expect(receipt().upload_failure_reason).toMatch(why);
      expect(json("checkpoints/failures/failed_upload_drill.json").outcome).toBe("retained_refusal");
      expect(json(retainedPaths.current_status_path).phase).toBe("checkpoint_backup_refused");
      const feed = json(retainedPaths.active_alert_feed_path).active_alerts;
      expect(feed.map((a: { alert_kind: string }) => a.alert_kind)).toEqual(["checkpoint_backup_refused"]);
      const { checkpoint_object_digest: digest } = json("checkpoints/step-2/checkpoint_manifest.json");
      expect(verifyCheckpoint(join(run.root, "checkpoints/step-2"), digest).completed_steps).toBe(2);
      await using next = new S3Peer();
      setTo(next.environment);
      await backUpRun(run, to);
      expect(receipt().backup_state).toBe("backed_up");
    },
    20_000,
  );

  test("that nobody answers for, and one without credentials", async () => {
    await peer[Symbol.asyncDispose]();
    await expect(backUpRun(run, to)).rejects.toMatchObject({ code: "network_failed" });
    expect(receipt().backup_state).toBe("refused");
    setTo({});
    await expect(backUpRun(run, to)).rejects.toMatchObject({ code: "unauthorized" });
    expect(receipt().upload_failure_reason).toContain("S3_ACCESS_KEY_ID or AWS_ACCESS_KEY_ID");
    for (const bad of ["s3://", "s3://B/x", "s3://bucket/../x", "s3://bucket/a b"])
      expect(() => backupStore(bad)).toThrow("s3://bucket/prefix");
  }, 20_000);

  test.each(["corrupt", "breakOff"] as const)(
    "that is damaged (%s) when it is wanted back: refused, nothing is lost",
    async (kind) => {
      await using failing = peer;
      await backUpRun(run, to);
      failing.faults = { [kind]: "optimizer" };
      const model = join(run.root, "checkpoints/step-2/model.safetensors");
      const whole = readFileSync(model);
      writeFileSync(model, whole.subarray(0, 1000));
      await expect(resumeRun(run, options)).rejects.toMatchObject({ code: "digest_mismatch" });
      expect(json(retainedPaths.auto_resume_receipt_path)).toMatchObject({
        ...{ resolution_state: "refused", resume_source_kind: "none" },
      });
      expect(readdirSync(join(run.root, "checkpoints")).filter((name) => name.startsWith("."))).toEqual([]);
      expect(existsSync(join(run.root, "checkpoints/step-2/optimizer.safetensors"))).toBe(true);
      writeFileSync(model, whole);
      failing.faults = {};
      expect((await resumeRun(run, { ...options, dryRun: true })).phase).toBe("resume_dry_run_planned");
    },
    20_000,
  );

  test("larger files go up in parts and come back as they were", async () => {
    await using _ = peer;
    const large = join(folder, "large");
    const files = ["model", "optimizer"].map((name, i) => {
      const bytes = new Uint8Array(i === 0 ? 12 * 2 ** 20 : 100).map((__, at) => at * 31 + (at >> 12));
      return { path: `${name}.safetensors`, sha256: sha256(bytes), bytes: bytes.length, data: bytes };
    });
    for (const { path, data } of files) await Bun.write(join(large, path), data);
    const state = JSON.stringify({
      ...{ schema_version: stateSchema, model_id: "m", dataset_identity: "d", dataset_digest: "" },
      ...{ settings_digest: "", completed_steps: 1, files: files.map(({ data: __, ...record }) => record) },
    });
    await Bun.write(join(large, "trainer_state.json"), state);
    await backupStore(to).keep(large, 1, sha256(state));
    const parts = peer.methods.filter((m) => m.startsWith("PUT") && m.endsWith("model.safetensors"));
    expect(parts.length).toBeGreaterThan(1);
    await backupStore(to).bring(1, sha256(state), join(folder, "brought"));
    expect(verifyCheckpoint(join(folder, "brought/step-1"), sha256(state)).completed_steps).toBe(1);
  }, 20_000);
});
