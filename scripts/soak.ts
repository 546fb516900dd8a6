/**
 * The parts of scripts/soak.sh, which builds first. Usage: bun scripts/soak.ts MUTANTS [REQUESTS] [STREAMS] [TRAININGS] [FLOOD] [KILLS]
 * Output: one line per part and a summary on stdout, progress with rate and time left on stderr; exits 1 at the first
 * thing that broke.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { percentile, streamAll } from "../src/serve/http/testing/streams.ts";
import { Progress } from "../src/terminal/progress.ts";
import { fuzzAll } from "./fuzz.ts";
import { killTrials } from "./kill-trials.ts";

const counts = process.argv.slice(2);
const wrong = counts.find((word) => !/^\d+$/.test(word));
if (wrong !== undefined) {
  console.error(`[soak] expected whole numbers, got ${wrong}`);
  process.exit(1);
}
const [mutants = 1_000_000, requests = 10_000, streams = 200, trainings = 200, flood = 1000, kills = 200] =
  counts.map(Number);
const root = join(import.meta.dir, "..");
process.env.PSIONIC_BINARY = join(root, "dist", "psionic");
const seed = 1;
/** Contributions of honest workers that a validator judges. */
const honest = 100;
/** Growth of the resident set between the first tenth of the requests and the end, bytes. */
const allowedGrowth = 32 * 2 ** 20;

type Served = { readonly url: string; readonly child: Bun.Subprocess };

async function serve(): Promise<Served> {
  const child = Bun.spawn([join(root, "dist", "psionic"), "serve", "--port", "0", "-np", "16"], {
    ...({ stdin: "ignore", stdout: "pipe", stderr: "ignore" } as const),
  });
  let line = "";
  for await (const bytes of child.stdout) {
    line += new TextDecoder().decode(bytes);
    if (line.includes("\n")) break;
  }
  const url = /http:\/\/\S+/.exec(line)?.[0];
  if (!url) throw new Error(`expected a ready line, got ${line}`);
  return { url, child };
}

async function complete(url: string, prompt: string, maxTokens: number): Promise<string> {
  const response = await fetch(`${url}/v1/completions`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ prompt, max_tokens: maxTokens, stream: true }),
  });
  if (!response.ok) throw new Error(`status ${response.status}: ${await response.text()}`);
  const lines = (await response.text()).split("\n").filter((l) => l.startsWith("data: "));
  if (lines.at(-1) !== "data: [DONE]") throw new Error(`a stream ended in ${lines.at(-1)}`);
  return lines
    .slice(0, -1)
    .map((l) => (JSON.parse(l.slice(6)) as { choices: { text?: string }[] }).choices[0]?.text ?? "")
    .join("");
}

function residentBytes({ child }: Served): number {
  const kb = /^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${child.pid}/status`, "utf8"))?.[1];
  return Number(kb) * 1024;
}

async function steadyMemory(served: Served): Promise<string> {
  let early = 0;
  let done = 0;
  const progress = new Progress({ format: String });
  const lane = async () => {
    while (done < requests) {
      const i = done++;
      progress.update("requests", i, requests);
      await complete(
        served.url,
        `Request ${i} of a long day is about ${["pages", "networks", "colours"][i % 3]}`,
        8,
      );
      if (i === Math.floor(requests / 10)) early = residentBytes(served);
    }
  };
  await Promise.all(Array.from({ length: 8 }, lane));
  progress.end();
  const growth = residentBytes(served) - early;
  const text = `${requests} requests, resident set ${mib(early)} after a tenth, ${mib(early + growth)} at the end`;
  if (growth > allowedGrowth) throw new Error(`memory grew: ${text}`);
  return text;
}

/** All at once on a server with default settings but its slots: none may be lost, and memory must not grow with them. */
async function thousandStreams(served: Served): Promise<string> {
  const bodies = Array.from({ length: flood }, (_, i) => ({
    ...{ prompt: `Stream ${i} tells of the number ${i * 37}`, max_tokens: 24, temperature: 0 },
  }));
  const gaps: number[] = [];
  const texts: string[][] = [];
  const resident: number[] = [];
  // the first round fills buffers and the collector's heap
  for (let round = 0; round < 4; round++) {
    const results = await streamAll(served.url, bodies);
    const lost = results.filter(({ status, done }) => status !== 200 || !done);
    if (lost.length > 0)
      throw new Error(`${lost.length} of ${flood} streams were lost, one with status ${lost[0]!.status}`);
    texts.push(results.map(({ text }) => text));
    gaps.push(...results.flatMap(({ gapsMs }) => gapsMs));
    resident.push(residentBytes(served));
  }
  const changed = texts[0]!.findIndex((text, i) => texts.some((round) => round[i] !== text));
  if (changed >= 0) throw new Error(`stream ${changed} differs from round to round`);
  const memory = resident.map(mib).join(", ");
  if (resident.at(-1)! - resident[1]! > allowedGrowth) throw new Error(`memory grew: ${memory}`);
  const [half, most] = [0.5, 0.99].map((share) => percentile(gaps, share).toFixed(1));
  return `${flood} streams at once, four times, none lost; between tokens p50 ${half} ms, p99 ${most} ms; resident set ${memory}`;
}

async function manyStreams(served: Served): Promise<string> {
  const prompts = Array.from(
    { length: streams },
    (_, i) => `Topic ${i}: the history of the number ${i * 37}`,
  );
  const progress = new Progress({ format: String });
  let ended = 0;
  progress.update("streams", 0, streams);
  const together = await Promise.all(
    prompts.map(async (prompt) => {
      const text = await complete(served.url, prompt, 48);
      progress.update("streams", ++ended, streams);
      return text;
    }),
  );
  progress.end();
  for (let i = 0; i < streams; i += 10) {
    const alone = await complete(served.url, prompts[i]!, 48);
    if (alone !== together[i]) throw new Error(`stream ${i} differs from the same request alone`);
  }
  return `${streams} streams at once ended well; every tenth equals the same request alone`;
}

function mib(bytes: number): string {
  return `${(bytes / 2 ** 20).toFixed(1)} MiB`;
}

async function part(name: string, run: () => Promise<string> | string): Promise<void> {
  const start = performance.now();
  const text = await run();
  console.log(`- ${name}: ${text} (${((performance.now() - start) / 1000).toFixed(0)} s)`);
}

console.log(`Soak of ${new Date().toISOString().slice(0, 10)}, seed ${seed}:`);
const begun = performance.now();
const ran = await fuzzAll(seed, { count: mutants });
const served = await serve();
try {
  await part("memory", () => steadyMemory(served));
  await part("streams", () => manyStreams(served));
  await part("flood", () => thousandStreams(served));
} finally {
  served.child.kill("SIGTERM");
  await served.child.exited;
}
await part("training", async () => {
  const { kills, digest } = await killTrials(trainings, seed);
  return `${trainings} runs, killed ${kills} times and resumed, all ended in ${digest.slice(0, 16)}`;
});
await part("machine", async () => {
  const { machineKills } = await import("../src/machine/testing/kills.ts");
  const lanes = [
    "psion_actual_pretraining_v1",
    "psion_apple_windowed_training_v1",
    "qwen_legal_adapter_sft_v1",
  ];
  const { trials, killed } = await machineKills(lanes, kills, seed);
  return `${trials} operations of workers and validators, ${killed} killed on the way; whole, nothing accepted lost, the same work in the end`;
});
await part("stages", async () => {
  const { stageKills } = await import("../src/machine/testing/stage_kills.ts");
  const { killed } = await stageKills(kills, seed);
  return `${kills} windows in two stages, ${killed} stages killed on the way and started again; the same losses`;
});
await part("verdicts", async () => {
  const verdicts = await import("../src/machine/testing/verdicts.ts");
  const found = Object.entries(verdicts.judgeForgeries()).map(([name, count]) => `${count} ${name}`);
  const accepted = verdicts.judgeHonest(honest);
  const { draws, caught, statedPpm } = verdicts.sampleForgeries(1000);
  if (caught < draws / 4) throw new Error(`one forged step of 64 was drawn in ${caught} of ${draws} draws`);
  const { workerMs, validatorMs } = verdicts.sampledCost(3);
  const cost = validatorMs / workerMs;
  if (cost > 0.3) throw new Error(`sampling cost ${(100 * cost).toFixed(1)} % of the worker's time`);
  return [
    `forgeries found as ${found.join(", ")}; ${accepted} honest contributions accepted`,
    `one forged step of 64 caught in ${caught} of ${draws} draws (stated ${statedPpm / 1e4} %)`,
    `at ${(100 * cost).toFixed(1)} % of the worker's time`,
  ].join("; ");
});
const minutes = ((performance.now() - begun) / 60_000).toFixed(1);
console.log(
  `Nothing broke: ${ran} mutants, ${requests} requests, ${streams} and ${flood} streams, ${trainings} trainings, ${kills} operations in ${minutes} minutes.`,
);
