/** What must be refused clearly, and what a server must survive. */
import { existsSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import { type Check, lastLines, psionic, ran, root, served } from "./check.ts";

export async function errors(check: Check): Promise<void> {
  const ofDevices = [noDevice, oldDriver, partOfTheLayers, tooLarge, fullCard];
  for (const part of [killedClient, ...(check.backend === "cuda" ? ofDevices : [])]) {
    try {
      await part(check);
    } catch (error) {
      const got = error instanceof Error ? error.message : String(error);
      check.report({ what: part.name, required: "runs to its end", got: got.slice(0, 200), ok: false });
    }
  }
}

/** A refusal: exit 1, one line with what was expected, no crash. */
async function refusal(
  { report }: Check,
  what: string,
  words: readonly string[],
  text: RegExp,
  env: Record<string, string> = {},
): Promise<void> {
  const { code, err } = await ran(psionic(...words), { limit: 60, env });
  const ok = code === 1 && text.test(err) && !/panic|segfault|signal/i.test(err);
  report({
    what,
    required: `exit 1, ${text.source}`,
    got: `exit ${code}: ${lastLines(err, 1).slice(0, 160)}`,
    ok,
  });
}

const answering = ["run", "-p", "Hello", "-n", "4", "--backend", "cuda"];

function noDevice(check: Check): Promise<void> {
  return refusal(check, "no device visible", answering, /a CUDA device, got none/, {
    CUDA_VISIBLE_DEVICES: "",
  });
}

/** A libcuda.so.1 that claims an old version stands in the place of the driver. */
async function oldDriver(check: Check): Promise<void> {
  const folder = join(check.folder, "old-driver");
  mkdirSync(folder, { recursive: true });
  const library = join(folder, "libcuda.so.1");
  const what = "a driver too old";
  const compiler = Bun.which("cc") ?? Bun.which("gcc");
  const source = join(root, "scripts", "gpu", "old_driver.c");
  if (compiler) await ran([compiler, "-shared", "-fPIC", "-o", library, source]);
  if (!existsSync(library)) {
    check.report({ what, required: "a refusal", got: "not run: no C compiler", ok: false });
    return;
  }
  await refusal(check, what, answering, /a CUDA device, got none.*driver for CUDA 9/, {
    LD_LIBRARY_PATH: folder,
  });
}

function partOfTheLayers(check: Check): Promise<void> {
  return refusal(check, "-ngl below the layer count", [...answering, "-ngl", "1"], /-ngl.*\d/);
}

/** One context that takes several times what any card has. */
function tooLarge(check: Check): Promise<void> {
  const words = [
    "serve",
    "-m",
    check.largeModel,
    "--backend",
    "cuda",
    "-c",
    "16000000",
    "-np",
    "1",
    "--port",
    "0",
  ];
  return refusal(check, "a context larger than the card", words, /\d+ MiB/);
}

/** Another process holds nearly all of the card: a large model is refused with numbers, and is not harmed by the attempt. */
async function fullCard(check: Check): Promise<void> {
  const holder = Bun.spawn([process.execPath, join(root, "scripts", "gpu", "hold_memory.ts"), "6"], {
    ...({ cwd: root, stdin: "ignore", stdout: "pipe", stderr: "inherit" } as const),
  });
  const reader = holder.stdout.getReader();
  if ((await reader.read()).done) throw new Error("expected a process that holds memory, got one that ended");
  await refusal(
    check,
    "a second process on a full card",
    ["serve", "-m", check.largeModel, "--backend", "cuda", "-c", "8192", "-np", "1", "--port", "0"],
    /\d+ MiB/,
  );
  const server = await served(["--backend", "cuda", "-c", "1024", "-np", "2"]);
  const answered = await completes(server.url);
  await server.stop();
  holder.kill("SIGKILL");
  await holder.exited;
  check.report({
    what: "a small model beside that process",
    required: "answers",
    got: answered ? "answers" : "no answer",
    ok: answered,
  });
}

async function completes(url: string): Promise<boolean> {
  const response = await post(url, { prompt: "The network", max_tokens: 8 });
  return (
    response.ok &&
    ((await response.json()) as { usage?: { completion_tokens: number } }).usage?.completion_tokens === 8
  );
}

function post(url: string, body: unknown, signal?: AbortSignal): Promise<Response> {
  return fetch(`${url}/v1/completions`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
    ...(signal ? { signal } : {}),
  });
}

/** Clients that leave in the middle of an answer: their slots are free at once, and the server goes on. */
async function killedClient({ backend, report }: Check): Promise<void> {
  const server = await served(["--backend", backend, "-np", "2", "-c", "2048"]);
  for (let i = 0; i < 8; i++) {
    const leave = new AbortController();
    const response = await post(
      server.url,
      { prompt: `Once upon a time ${i}`, max_tokens: 1900, stream: true, ignore_eos: true },
      leave.signal,
    );
    await response.body!.getReader().read();
    leave.abort();
  }
  const start = performance.now();
  const answered = await completes(server.url);
  const ms = performance.now() - start;
  const code = await server.stop();
  report({
    what: "8 clients killed in the middle of their streams, 2 slots",
    required: "the next is answered within 1 s, exit 0",
    got: `${answered ? "answered" : "no answer"} after ${ms.toFixed(0)} ms, exit ${code}`,
    ok: answered && ms < 1000 && code === 0,
  });
}
