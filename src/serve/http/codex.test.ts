/**
 * Codex CLI against the server, its tool loop included. It is large, so it is not among the packages:
 * `bun scripts/codex-install.ts` brings it, or name one with PSIONIC_TEST_CODEX=<path of the executable>.
 */
import { afterAll, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { installedCodex } from "../../../scripts/codex-install.ts";
import { testServer } from "./testing/client.ts";
import { call, harmonyModel, type Script, speech } from "./testing/scripted.ts";

const codex = Bun.env.PSIONIC_TEST_CODEX ?? installedCodex();
const folder = mkdtempSync(join(tmpdir(), "psionic-codex-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

async function run(script: Script, catalogue: boolean) {
  const model = harmonyModel(script);
  await using server = await testServer(model);
  const home = join(folder, "home");
  mkdirSync(home, { recursive: true });
  const config = join(home, "config.toml");
  await Bun.write(
    config,
    [
      ...['model = "Test-Model.gguf"', 'model_provider = "psionic"', 'approval_policy = "never"'],
      ...['sandbox_mode = "danger-full-access"', "[model_providers.psionic]", 'name = "psionic"'],
      ...[`base_url = "${server.url}/v1"`, 'wire_api = "responses"'],
    ].join("\n"),
  );
  const list = join(folder, "models.json");
  await Bun.write(list, await (await server.get("/v1/models")).text());
  const more = catalogue ? ["-c", `model_catalog_json="${list}"`] : [];
  const child = Bun.spawn([codex!, "exec", ...more, "--skip-git-repo-check", "--json", "say hi"], {
    ...{ cwd: folder, stdin: "ignore", stdout: "pipe", stderr: "ignore" },
    env: { ...Bun.env, CODEX_HOME: home },
  });
  const text = await new Response(child.stdout).text();
  await child.exited;
  return { text, model };
}

test.skipIf(codex === undefined)(
  "codex runs a command and gives its answer; it reads our model list",
  async () => {
    for (const catalogue of [false, true]) {
      const answers = [call("exec_command", '{"cmd":"echo from-the-tool"}', "look")];
      const { text, model } = await run(
        { answers, later: [speech("All done.")], contextLength: 200_000 },
        catalogue,
      );
      expect(text).toContain('"aggregated_output":"from-the-tool\\n"');
      expect(text).toContain('"text":"All done."');
      expect(text.includes("fallback metadata")).toBe(!catalogue);
      const prompt = model.tokenizer.decode(model.engine.requests.at(-1)!.prompt, { special: true });
      // its own reasoning comes back to the model inside the loop
      expect(prompt).toContain("<|channel|>analysis<|message|>look<|end|>");
    }
  },
  120_000,
);

test.skipIf(codex === undefined)(
  "codex understands that its conversation does not fit",
  async () => {
    const { text } = await run({ answers: [speech("x")], contextLength: 4000 }, false);
    expect(text).toContain("context window");
  },
  120_000,
);
