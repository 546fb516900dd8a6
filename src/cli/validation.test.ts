/** The hardware validation matrix: claims only of what was observed, and commands that show it. */
import { expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { type Claim, type Machine, thisMachine, validationMatrix } from "./validation.ts";

const root = join(import.meta.dir, "..", "..");
const bare: Machine = { platform: "linux", cuda: false, metal: false, kfd: false };

/** What doctor says in a process of its own: in this one other tests may have a CUDA library of theirs open. */
const machine: Promise<readonly Claim[]> = (async () => {
  const child = Bun.spawn([process.execPath, join(root, "src", "main.ts"), "doctor", "--json"], {
    ...({ stdout: "pipe", stderr: "inherit" } as const),
  });
  const { validation } = (await new Response(child.stdout).json()) as { validation: Claim[] };
  return validation;
})();

const rows = async (machine: Machine): Promise<string[]> =>
  (await validationMatrix(machine)).map(({ claim_id, coverage }) => `${claim_id} ${coverage}`);

test("what runs here is positive, what declines is a refusal", async () => {
  const claims = await machine;
  expect(claims[0]).toMatchObject({
    matrix_id: "psionic.minimum_hardware_validation.v1",
    claim_id: "cpu.text_generation.reference",
    coverage: "positive_execution",
    evidence: expect.stringContaining("backend=cpu execution_mode=native execution_engine=psionic"),
  });
  const ids = claims.map(({ claim_id }) => claim_id);
  expect(new Set(ids).size).toBe(ids.length);
  const cuda = ids.filter((id) => id.startsWith("cuda."));
  if (cuda.length > 1) expect(cuda).toContain("cuda.text_generation.nvidia");
  else expect(cuda).toEqual(["cuda.refusal.unavailable"]);
  expect(existsSync(join(root, claims[0]!.documentation_path))).toBe(true);
  const page = readFileSync(join(root, claims[0]!.documentation_path), "utf8");
  for (const { claim_id, coverage } of claims) {
    if (coverage !== "not_yet_validated") expect(page).toContain(`\`${claim_id}\``);
  }
});

test("nothing is claimed for what is not there", async () => {
  const elsewhere = await rows({ ...bare, platform: "darwin" });
  expect(elsewhere).toContain("metal.text_generation.not_yet_validated not_yet_validated");
  expect(elsewhere.join()).not.toContain("amd");
  expect(await rows({ ...bare, kfd: true })).toContain("amd_kfd.discovery discovery_readiness");
  expect(await rows(bare)).toContain("amd_kfd.discovery.not_yet_validated not_yet_validated");
  // a device that is promised and does not compute is no positive row
  if (thisMachine().cuda) return;
  const promised = await rows({ ...bare, cuda: true });
  expect(promised).toContain("cuda.text_generation.not_yet_validated not_yet_validated");
});

test("each command ends with the exit code that its row says", async () => {
  for (const { command, exit_code, coverage } of await machine) {
    if (coverage === "not_yet_validated") continue;
    const words = command.replace(/^psionic /, `'${process.execPath}' '${join(root, "src", "main.ts")}' `);
    const child = Bun.spawn(["sh", "-c", words], { stdin: "ignore", stdout: "ignore", stderr: "ignore" });
    expect(`${command} ${await child.exited}`).toBe(`${command} ${exit_code}`);
  }
}, 120_000);
