/** The commands around several models and the store, as users start them. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pullModel } from "../../models/store/pull.ts";
import { fileReply, startHost } from "../../models/store/testing/host.ts";
import { ggufBytes } from "../../models/store/testing/models.ts";

const main = join(import.meta.dir, "..", "..", "main.ts");
const fixture = join(import.meta.dir, "../../../fixtures/docs-oss-13m-mxfp4.gguf");

let folder: string;
let environment: Record<string, string>;
const at = (name: string) => join(folder, name);

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "serve-"));
  symlinkSync(fixture, at("a.gguf"));
  symlinkSync(fixture, at("b.gguf"));
  const { PATH = "", PSIONIC_CACHE_DIR } = process.env;
  environment = {
    ...{ PATH, HOME: folder, NO_COLOR: "1", PSIONIC_HOME: at("home"), XDG_CONFIG_HOME: at("config") },
    ...(PSIONIC_CACHE_DIR ? { PSIONIC_CACHE_DIR } : {}),
  };
});

afterAll(() => rmSync(folder, { recursive: true }));

async function psionic(words: readonly string[], env: Record<string, string> = {}) {
  const child = Bun.spawn([process.execPath, main, ...words], {
    ...{ cwd: folder, env: { ...environment, ...env }, stdout: "pipe", stderr: "pipe" },
  });
  const [out, err] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
  ]);
  return { code: await child.exited, out, err };
}

/** A server that is ready; its first line on stdout has the address. */
async function started(words: readonly string[]) {
  const child = Bun.spawn(
    [process.execPath, main, "serve", "--port", "0", "-t", "1", "-c", "256", ...words],
    {
      ...{ cwd: folder, env: environment, stdout: "pipe", stderr: "pipe" },
    },
  );
  const lines: string[] = [];
  const log = (async () => {
    for await (const bytes of child.stderr) lines.push(new TextDecoder().decode(bytes));
  })();
  for await (const bytes of child.stdout) {
    const ready = new TextDecoder().decode(bytes);
    const url = /http:\/\/\S+/.exec(ready)?.[0] ?? "";
    const text = async () => {
      await log;
      return lines.join("");
    };
    return { child, ready, url, log: text };
  }
  await log;
  throw new Error(`the server did not start: ${lines.join("")}`);
}

describe("serving", () => {
  test("two models, their log as JSON, ps, and the end", async () => {
    const { child, ready, url, log } = await started([
      "-m",
      "a.gguf",
      "-m",
      "b.gguf",
      "--log-format",
      "json",
    ]);
    expect(ready).toContain("a.gguf backend=cpu");
    expect(ready).toContain("models=2");
    const response = await fetch(`${url}/v1/chat/completions`, {
      method: "POST",
      body: JSON.stringify({ model: "b", max_tokens: 2, messages: [{ role: "user", content: "hi" }] }),
    });
    expect((await response.json()).model).toBe("b");
    const { servers } = JSON.parse((await psionic(["ps", "--json"])).out);
    expect(servers).toHaveLength(1);
    expect(servers[0]).toMatchObject({ pid: child.pid, url, state: "running", keyed: false });
    expect(servers[0].models.map((m: Record<string, unknown>) => [m.id, m.psionic_load_status])).toEqual([
      ["a.gguf", "loaded"],
      ["b.gguf", "loaded"],
    ]);
    expect((await psionic(["ps"])).out).toContain(url);
    child.kill("SIGTERM");
    expect(await child.exited).toBe(0);
    expect(readdirSync(at("home/run"))).toEqual([]);
    const entries = (await log())
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line));
    expect(entries.map(({ event }) => event).filter(Boolean)).toEqual([
      ...["model_loading", "model_loaded", "model_unloaded", "model_unloaded"],
    ]);
    const request = entries.find(({ route }) => route === "/v1/chat/completions");
    expect(request).toMatchObject({ model: "b.gguf", request_id: response.headers.get("x-request-id") });
    expect((await psionic(["ps"])).out).toBe("No server is running.\n");
  }, 60_000);

  test("a folder of models; a server that is killed stands in ps as gone, once", async () => {
    mkdirSync(at("models"));
    symlinkSync(fixture, at("models/m.gguf"));
    writeFileSync(at("models/noise.gguf"), "noise");
    const { child, ready, url, log } = await started(["--models-dir", "models", "--idle-unload", "600"]);
    expect(ready).toContain("models=1 loaded=0");
    expect((await (await fetch(`${url}/health`)).json()).load_status).toBe("unloaded");
    child.kill("SIGKILL");
    await child.exited;
    expect(await log()).toContain("noise.gguf is left out");
    const gone = await psionic(["ps", "--json"]);
    expect(JSON.parse(gone.out).servers.map(({ state }: { state: string }) => state)).toEqual(["gone"]);
    expect(JSON.parse((await psionic(["ps", "--json"])).out).servers).toEqual([]);
  }, 60_000);

  test("what cannot be served is said at once", async () => {
    symlinkSync(fixture, at("models/a.gguf"));
    const cases: readonly (readonly [readonly string[], number, string])[] = [
      [["-m", "a.gguf", "-m", "models/a.gguf"], 1, "one model called a.gguf"],
      [["-m", "a.gguf", "-m", "none.gguf"], 1, "none.gguf"],
      [["-m", "org/none"], 1, "psionic pull org/none"],
      [["--models-dir", "none"], 1, "a folder that can be read"],
      [["--idle-unload", "soon"], 2, "--idle-unload takes a number"],
      [["--port", "1", "--port", "2"], 2, "--port is given twice"],
      [["-m", "a.gguf", "-m", "a.gguf"], 2, "--model takes every model once, got a.gguf twice"],
      [["--adapter", "style"], 2, "--adapter takes NAME=PATH"],
      [["--adapter", "a=x", "--adapter", "a=y"], 2, "--adapter takes every name once, got a twice"],
      [["-m", "a.gguf", "--models-dir", "models", "--adapter", "a=x"], 2, "--adapter goes with one model"],
      [["-m", "a.gguf", "--backend", "cpu", "--adapter", "a=none"], 1, "[none] expected adapter_model"],
      [["--allowed-host", "box:8080"], 1, "a name as in a URL, without port and path, got box:8080"],
    ];
    for (const [words, code, message] of cases) {
      const result = await psionic(["serve", ...words]);
      expect([words, result.code, result.err.includes(message)]).toEqual([words, code, true]);
    }
  }, 60_000);
});

describe("settings", () => {
  test("--print-config shows each value and where it is from; the usual file is found; secrets are masked", async () => {
    mkdirSync(at("config/psionic"), { recursive: true });
    const usual = at("config/psionic/serve.toml");
    writeFileSync(usual, 'port = 9001\nmax-queue = 3\napi-key = "a very secret key"\nmodel = ["a.gguf"]\n');
    const environment = { PSIONIC_SERVE_MAX_QUEUE: "4", PSIONIC_SERVE_HOST: "::1" };
    const { code, out } = await psionic(["serve", "--print-config", "-c", "512"], environment);
    expect(code).toBe(0);
    const line = (name: string) => out.split("\n").find((text) => text.startsWith(`${name} = `)) ?? "";
    expect(line("port")).toMatch(new RegExp(`^port = "9001" +# file: ${usual}$`));
    expect(line("max-queue")).toMatch(/^max-queue = "4" +# environment: PSIONIC_SERVE_MAX_QUEUE$/);
    expect(line("ctx-size")).toMatch(/^ctx-size = "512" +# flag: --ctx-size$/);
    expect(line("log-format")).toMatch(/^log-format = "text" +# default$/);
    expect(out).not.toContain("secret");
    expect(line("api-key")).toContain('"********"');
    const other = at("other.json");
    writeFileSync(other, '{"port": "nine"}');
    const wrong = await psionic(["serve", "--config", other]);
    expect([wrong.code, wrong.err.includes("--port takes a whole number")]).toEqual([2, true]);
    const shown = await psionic(["serve", "--config", other, "--print-config"]);
    expect([shown.code, shown.out]).toEqual([2, ""]);
    const variable = await psionic(["serve"], { PSIONIC_SERVE_PORT: "nine" });
    expect([variable.code, variable.err.includes("PSIONIC_SERVE_PORT: --port takes a whole number")]).toEqual(
      [2, true],
    );
    rmSync(usual);
  }, 60_000);

  test("--print-config refuses what serve would not start with", async () => {
    const refused: readonly (readonly [settings: object, code: number])[] = [
      [{ "api-key": "short" }, 1],
      [{ "api-key-file": at("no-keys") }, 1],
      [{ host: "0.0.0.0" }, 1],
      [{ "cors-origin": "app.example" }, 1],
      [{ "allowed-host": "http://app.example" }, 1],
      [{ "metal-mode": "proxy" }, 1],
      [{ "metal-mode": "native", backend: "cpu" }, 2],
      [{ "n-cpu-moe": 3 }, 1],
      [{ model: ["a.gguf", "a.gguf"] }, 2],
      [{ adapter: "no-path" }, 2],
    ];
    const config = at("refused.json");
    for (const [settings, code] of refused) {
      writeFileSync(config, JSON.stringify(settings));
      const shown = await psionic(["serve", "--config", config, "--print-config"]);
      expect([settings, shown.code, shown.out]).toEqual([settings, code, ""]);
    }
  }, 60_000);

  test("a key of a settings file is asked for", async () => {
    const config = at("keyed.toml");
    writeFileSync(config, 'api-key = "a very secret key"\nmodel = ["a.gguf"]\n');
    const { child, url } = await started(["--config", config]);
    expect((await fetch(`${url}/v1/models`)).status).toBe(401);
    const key = { authorization: "Bearer a very secret key" };
    expect((await fetch(`${url}/v1/models`, { headers: key })).status).toBe(200);
    const states = async (env: Record<string, string>) =>
      JSON.parse((await psionic(["ps", "--json"], env)).out).servers.map(
        (one: { state: string }) => one.state,
      );
    expect(await states({})).toEqual(["key needed"]);
    expect(await states({ PSIONIC_API_KEY: "a very secret key" })).toEqual(["running"]);
    child.kill("SIGTERM");
    await child.exited;
  }, 60_000);
});

describe("the store", () => {
  test("pull, list, show, -m, rm; exit codes tell what went wrong", async () => {
    const model = ggufBytes(5000);
    using host = startHost((request) =>
      request.path === "/tiny.gguf"
        ? fileReply(request, model, { headers: { "last-modified": "Wed, 21 Oct 2015 07:28:00 GMT" } })
        : { status: 404 },
    );
    const json = async (...words: string[]) => JSON.parse((await psionic([...words, "--json"])).out);
    expect(await json("list")).toEqual({ folder: at("home/models"), models: [] });
    const pulled = await psionic(["pull", `${host.url}/tiny.gguf`]);
    expect([pulled.code, pulled.out.includes("the host had not said them before")]).toEqual([0, true]);
    expect((await json("pull", `${host.url}/tiny.gguf`)).state).toBe("already there");
    const { models } = await json("list");
    expect(models).toMatchObject([{ name: "tiny", bytes: model.length, revision: null }]);
    expect(await json("show", "tiny", "--verify")).toMatchObject({
      ...{ name: "tiny", architecture: "llama", verified_now: true },
    });
    writeFileSync(
      models[0].path,
      model.map((byte, i) => (i === 4000 ? byte ^ 1 : byte)),
    );
    const damaged = await psionic(["show", "tiny", "--verify"]);
    expect([damaged.code, damaged.err.includes("psionic rm tiny")]).toEqual([1, true]);
    expect((await psionic(["tokenize", "-m", "tiny", "x"])).err).not.toContain("expected a file, a folder");
    expect((await json("rm", "tiny")).removed).toBe("tiny");
    expect(existsSync(models[0].path)).toBe(false);
    expect((await psionic(["rm", "tiny"])).code).toBe(1);
    expect((await psionic(["pull", `${host.url}/gone.gguf`])).code).toBe(3);
    expect((await psionic(["pull", "not-a-reference"])).code).toBe(2);
  }, 60_000);

  test("Ctrl-C ends a pull with 130 and leaves what is there; rm takes it away; a served model stays", async () => {
    const model = ggufBytes(300_000);
    using host = startHost((request) => ({
      ...fileReply(request, model),
      ...(request.headers.get("range") === "bytes=0-0" ? {} : { stallAfter: 1000 }),
    }));
    const child = Bun.spawn([process.execPath, main, "pull", `${host.url}/slow.gguf`], {
      ...{ env: environment, stdout: "ignore", stderr: "ignore" },
    });
    for (let i = 0; i < 12_000 && host.requests.length < 2; i++) await Bun.sleep(5);
    child.kill("SIGINT");
    expect(await child.exited).toBe(130);
    expect(existsSync(at("home/models/url/slow.pull/slow.gguf.part"))).toBe(true);
    expect((await psionic(["rm", "slow"])).out).toContain("Removed what there was of slow");
    expect(existsSync(at("home/models/url/slow.pull"))).toBe(false);

    const real = new Uint8Array(await Bun.file(fixture).arrayBuffer());
    using honest = startHost((request) => fileReply(request, real));
    process.env.PSIONIC_HOME = at("home");
    await pullModel(`${honest.url}/served.gguf`);
    delete process.env.PSIONIC_HOME;
    const server = await started(["-m", "served"]);
    const refused = await psionic(["rm", "served"]);
    expect([refused.code, refused.err.includes(server.url)]).toEqual([1, true]);
    expect((await psionic(["rm", "served", "--force"])).code).toBe(0);
    server.child.kill("SIGTERM");
    await server.child.exited;
  }, 60_000);
});
