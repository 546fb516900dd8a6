/** The compiled program as users start it: from any folder, beside hostile files, with and without a place to unpack. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { version } from "../core/version.ts";

const root = join(import.meta.dir, "..", "..");
const program = join(root, "dist", "psionic");
const fixture = join(root, "fixtures", "docs-oss-13m-mxfp4.gguf");
const answer = /^[^<>|]+ the right website\.\n$/;

let folder: string;

type Result = { readonly code: number; readonly out: string; readonly err: string };

async function psionic(
  args: readonly string[],
  env: Record<string, string> = {},
  stdin: string | Uint8Array<ArrayBuffer> = "",
): Promise<Result> {
  const child = Bun.spawn([program, ...args], {
    cwd: folder,
    env: { PATH: process.env.PATH ?? "", HOME: folder, ...env },
    stdin: new Blob([stdin]),
    stdout: "pipe",
    stderr: "pipe",
  });
  const [out, err, code] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  return { code, out, err };
}

type Serving = {
  readonly child: Bun.Subprocess<"ignore", "pipe", "pipe">;
  readonly url: string;
  readonly line: string;
};

async function serve(args: readonly string[] = []): Promise<Serving> {
  const child = Bun.spawn([program, "serve", "--port", "0", ...args], {
    ...{ cwd: folder, env: { PATH: process.env.PATH ?? "", HOME: folder } },
    ...({ stdin: "ignore", stdout: "pipe", stderr: "pipe" } as const),
  });
  let line = "";
  const reader = child.stdout.getReader();
  while (!line.includes("\n")) {
    const { value, done } = await reader.read();
    if (done) throw new Error(`the server ended: ${await new Response(child.stderr).text()}`);
    line += new TextDecoder().decode(value);
  }
  return { child, line, url: /http:\/\/\S+/.exec(line)![0] };
}

function longAnswer(url: string): Promise<Response> {
  return fetch(`${url}/v1/completions`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({
      prompt: "The web is",
      max_tokens: 1500,
      logit_bias: { 6137: -100, 6141: -100 },
      stream: true,
    }),
  });
}

/** Without the program there is nothing to try: `bun build.ts` makes it, and scripts/test.sh runs that first. */
describe.skipIf(!existsSync(program))("dist/psionic", () => {
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), "psionic-test-"));
    writeFileSync(join(folder, "bunfig.toml"), 'preload = ["./evil.ts"]\n');
    writeFileSync(join(folder, "evil.ts"), 'console.log("preloaded");\nprocess.exit(99);\n');
    writeFileSync(join(folder, ".env"), "PSIONIC_CACHE_DIR=/proc/nowhere\nPSIONIC_DEBUG=1\n");
  });
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  test("prints its version and help, soon", async () => {
    expect(await psionic(["--version"])).toEqual({ code: 0, out: `psionic ${version}\n`, err: "" });
    const times: number[] = [];
    for (let i = 0; i < 5; i++) {
      const { resourceUsage } = Bun.spawnSync([program, "--version"], { cwd: folder });
      times.push(Number(resourceUsage.cpuTime.total) / 1000);
    }
    // 50 ms is the goal on a quiet machine; processor time, as the test runs beside others
    expect(Math.min(...times)).toBeLessThan(200);
    const help = await psionic(["--help"]);
    expect(help.code).toBe(0);
    expect(help.out).toContain("serve");
    for (const name of [
      "serve",
      "run",
      "inspect",
      "tokenize",
      "detokenize",
      "logits",
      "bench",
      "conformance",
      "doctor",
      "completions",
    ]) {
      const { code, out } = await psionic([name, "--help"]);
      expect(code).toBe(0);
      expect(out).toContain("Examples:");
    }
  });

  test("answers with the built-in model, whatever .env and bunfig.toml of the folder say", async () => {
    const { code, out, err } = await psionic(["run", "-p", "Why does HTTPS matter?"]);
    expect(err).not.toContain("expected");
    expect({ code, out }).toEqual({ code: 0, out: expect.stringMatching(answer) });
    expect(existsSync(join(folder, ".cache", "psionic"))).toBe(true);
  });

  test("replaces an unpacked file that was changed", async () => {
    await psionic(["doctor"]);
    const [library] = [
      ...new Bun.Glob(".cache/psionic/*/libpsionic_cpu.so").scanSync({ cwd: folder, dot: true }),
    ];
    const path = join(folder, library!);
    const bytes = readFileSync(path);
    writeFileSync(path, "not a library");
    chmodSync(path, 0o700);
    expect((await psionic(["doctor"])).code).toBe(0);
    expect(readFileSync(path).equals(bytes)).toBe(true);
  });

  test("needs no place for its library, and says what it needs for the model", async () => {
    const nowhere = { PSIONIC_CACHE_DIR: "/proc/nowhere" };
    const refused = await psionic(["run", "-p", "Hello"], nowhere);
    expect(refused).toEqual({
      code: 1,
      out: "",
      err: expect.stringContaining("Set PSIONIC_CACHE_DIR to a writable folder"),
    });
    expect(refused.err.trim().split("\n").length).toBe(1);
    const { code, out } = await psionic(["run", "-m", fixture, "-p", "Why does HTTPS matter?"], nowhere);
    expect({ code, out }).toEqual({ code: 0, out: expect.stringMatching(answer) });
  });

  test("a folder among the temporary files that others may write is not used", async () => {
    const shared = join(folder, `psionic-${process.getuid?.()}`);
    mkdirSync(shared);
    chmodSync(shared, 0o777);
    const env = { HOME: "/proc/nowhere", TMPDIR: folder };
    const refused = await psionic(["run", "-p", "Hello"], env);
    expect(refused).toEqual({ code: 1, out: "", err: expect.stringContaining("others may write it") });
    chmodSync(shared, 0o700);
    const { code, out } = await psionic(["run", "-p", "Why does HTTPS matter?"], env);
    expect({ code, out }).toEqual({ code: 0, out: expect.stringMatching(answer) });
  });

  test("wrong usage is exit code 2 with a suggestion, refusals are 1", async () => {
    const cases: readonly (readonly [readonly string[], number, string])[] = [
      [[], 2, "expected a command"],
      [["srve"], 2, "did you mean serve?"],
      [["serve", "--prot", "1"], 2, "did you mean --port?"],
      [["serve", "--port", "70000"], 2, "from 0 to 65535"],
      [["serve", "--port"], 2, "expects a value"],
      [["serve", "--metal-mode", "native", "--backend", "cpu"], 2, "--metal-mode"],
      [["serve", "extra"], 2, "unexpected argument"],
      [["run", "--numerics", "gguf"], 2, "did you mean ggml?"],
      [["logits", "--ids", "x"], 2, "missing --out"],
      [["completions", "tcsh"], 2, "bash, zsh or fish"],
      [["serve", "--backend", "cuda"], 1, "cuda"],
      [["serve", "--backend", "metal"], 1, "no metal backend"],
      [["serve", "--metal-mode", "proxy"], 1, "[metal-mode]"],
      [["logits", "--ids", fixture, "--out", "."], 1, "token ids"],
      [["serve", "--backend", "cpu", "-ngl", "99"], 1, "[-ngl]"],
      [["serve", "--n-cpu-moe", "4"], 1, "[--n-cpu-moe]"],
      [["serve", "--backend", "cpu", "--device", "1"], 2, "--device"],
      [["serve", "--host", "0.0.0.0"], 1, "--api-key-file"],
      [["inspect", "-m", "nothing.gguf"], 1, "nothing.gguf"],
    ];
    for (const [args, code, text] of cases) {
      expect([args, await psionic(args)]).toEqual([
        args,
        { code, out: "", err: expect.stringContaining(text) },
      ]);
    }
  });

  test("a named pipe is no model, and text that is not UTF-8 no prompt", async () => {
    const pipe = join(folder, "pipe.gguf");
    Bun.spawnSync(["mkfifo", pipe]);
    expect(await psionic(["run", "-m", pipe, "-p", "Hello"])).toEqual({
      code: 1,
      out: "",
      err: expect.stringContaining("a special file"),
    });
    for (const command of ["tokenize", "run"]) {
      const refused = await psionic([command], {}, Uint8Array.of(0xff, 0xfe, 0x80));
      expect(refused).toEqual({ code: 1, out: "", err: expect.stringContaining("UTF-8") });
    }
  });

  test("a reader that has seen enough is no failure, a full disk is", async () => {
    const shell = async (line: string) => {
      const child = Bun.spawn(["sh", "-c", line], {
        ...{ cwd: folder, env: { PATH: process.env.PATH ?? "", HOME: folder } },
        ...({ stdin: "ignore", stderr: "pipe" } as const),
      });
      return { err: await new Response(child.stderr).text(), code: await child.exited };
    };
    for (const words of ["doctor --json", "inspect --tensors"]) {
      expect(await shell(`(${program} ${words}; echo "code $?" >&2) | true`)).toEqual({
        code: 0,
        err: "code 0\n",
      });
    }
    if (!existsSync("/dev/full")) return;
    for (const words of ["doctor --json", "run -p Hello"]) {
      const { code, err } = await shell(`${program} ${words} > /dev/full`);
      expect({ code, err }).toEqual({ code: 1, err: expect.stringMatching(/^psionic: .*ENOSPC.*\n$/) });
    }
  });

  test("tokens there and back", async () => {
    const text = "Hello, wörld 🙂";
    const { tokens, count } = JSON.parse((await psionic(["tokenize", "--json", text])).out);
    expect(tokens.length).toBe(count);
    expect((await psionic(["detokenize"], {}, JSON.stringify(tokens))).out).toBe(`${text}\n`);
    expect((await psionic(["detokenize", "--json", tokens.join(" ")])).out).toBe(
      `${JSON.stringify({ content: text })}\n`,
    );
    const bad = await psionic(["detokenize", "999999"]);
    expect(bad).toEqual({ code: 1, out: "", err: expect.stringContaining("got 999999 at place 0") });
  });

  test("logits are f32 [T, V]", async () => {
    writeFileSync(join(folder, "ids.txt"), Array.from({ length: 150 }, (_, i) => i * 7).join(" "));
    const args = ["logits", "-m", fixture, "--ids", "ids.txt", "--out", "logits.f32"];
    expect(await psionic(args)).toEqual({ code: 0, out: "", err: "" });
    const rows = new Float32Array(await Bun.file(join(folder, "logits.f32")).arrayBuffer());
    expect(rows.length).toBe(150 * 6144);
    expect(rows.every(Number.isFinite)).toBe(true);
    writeFileSync(join(folder, "one.json"), "[[0]]");
    await psionic(["logits", "--ids", "one.json", "--out", "one.f32"]);
    const first = new Float32Array(await Bun.file(join(folder, "one.f32")).arrayBuffer());
    // A prompt of one row takes the same kernels as any prompt.
    expect(first).toEqual(rows.slice(0, 6144));
  });

  test("inspect, doctor and bench speak JSON", async () => {
    const inspected = JSON.parse((await psionic(["inspect", "--json"])).out);
    expect(inspected.experts).toMatchObject({ experts: 8, used: 2, layers: [0, 1, 2, 3, 4, 5] });
    expect(inspected.plan.planDigest).toMatch(/^sha256:[0-9a-f]{64}$/);
    expect(inspected.tensors.length).toBe(inspected.tensorCount);
    expect(JSON.parse((await psionic(["doctor", "--json"])).out).ok).toBe(true);
    const bench = ["bench", "-p", "16", "-n", "4", "-d", "0,32", "-b", "2", "-r", "1", "--json"];
    const { results } = JSON.parse((await psionic(bench)).out);
    expect(results.map((r: { test: string }) => r.test)).toEqual([
      "pp16 b2",
      "tg4 b2",
      "pp16 @ d32 b2",
      "tg4 @ d32 b2",
    ]);
    for (const r of results) expect(r.tokens_per_second).toBeGreaterThan(0);
  });

  test("serve says it is ready; the first signal lets answers end", async () => {
    for (const signal of ["SIGINT", "SIGTERM"] as const) {
      const { child, url, line } = await serve();
      expect(line).toContain("backend=cpu execution_mode=native execution_engine=psionic");
      const response = await longAnswer(url);
      child.kill(signal);
      expect(await response.text()).toEndWith("data: [DONE]\n\n");
      expect(await child.exited).toBe(0);
    }
  }, 60_000);

  test("two models side by side, each with a library of its own", async () => {
    mkdirSync(join(folder, "two"), { recursive: true });
    for (const name of ["a.gguf", "b.gguf"]) copyFileSync(fixture, join(folder, "two", name));
    const { child, url } = await serve(["--models-dir", "two", "-c", "512"]);
    const ask = async (model: string) => {
      const body = { model, messages: [{ role: "user", content: "Why does HTTPS matter?" }] };
      const response = await fetch(`${url}/v1/chat/completions`, {
        method: "POST",
        body: JSON.stringify(body),
      });
      return `${(await response.json()).choices[0].message.content}\n`;
    };
    for (const text of await Promise.all(["a", "b", "a", "b"].map(ask))) expect(text).toMatch(answer);
    child.kill("SIGTERM");
    expect(await child.exited).toBe(0);
  }, 60_000);

  test("serve has the page with it", async () => {
    const { child, url } = await serve();
    const page = await fetch(url);
    expect([page.status, page.headers.get("content-type")]).toEqual([200, "text/html; charset=utf-8"]);
    const html = await page.text();
    expect(html).toContain("<title>psionic</title>");
    expect(html).toMatch(/<script>[\s\S]{10000,}<\/script>/);
    child.kill("SIGTERM");
    expect(await child.exited).toBe(0);
  });

  test("a second Ctrl-C ends it at once", async () => {
    const { child, url } = await serve();
    const response = await longAnswer(url);
    child.kill("SIGINT");
    const reader = child.stderr.getReader();
    for (let text = ""; !text.includes("again to stop"); ) {
      const { value, done } = await reader.read();
      if (done) throw new Error("no message after the first Ctrl-C");
      text += new TextDecoder().decode(value);
    }
    child.kill("SIGINT");
    expect(await child.exited).toBe(130);
    await response.text().catch(() => {});
  });
});
