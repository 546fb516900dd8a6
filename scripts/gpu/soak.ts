/** Many short requests to one server: the card's memory stays where it was after the first tenth. */
import { type Check, gib, served, usedMemory } from "./check.ts";

const requests = Number(process.env.GPU_CHECK_REQUESTS ?? 10_000);
const lanes = 64;
/** The card counts memory in pages of 2 MiB; one more may be taken by the driver. */
const allowedGrowth = { cuda: 4 * 2 ** 20, cpu: 32 * 2 ** 20 };

export async function soak({ backend, report }: Check): Promise<void> {
  const server = await served(["--backend", backend, "-np", String(lanes), "-c", "1024"]);
  const start = performance.now();
  let early = Number.NaN;
  let begun = 0;
  let failed = 0;
  const topics = ["pages", "networks", "colours", "a cache", "the sea"];
  const lane = async () => {
    while (begun < requests) {
      const i = begun++;
      if (i === Math.floor(requests / 10)) early = await usedMemory(backend, server.pid);
      if (!(await complete(server.url, `Request ${i} of a long day is about ${topics[i % 5]}`))) failed++;
    }
  };
  await Promise.all(Array.from({ length: lanes }, lane));
  const seconds = (performance.now() - start) / 1000;
  const end = await usedMemory(backend, server.pid);
  const code = await server.stop();
  report({
    what: `${requests} requests answered, ${(requests / seconds).toFixed(0)} a second`,
    required: "0 fail",
    got: `${failed} fail`,
    ok: failed === 0,
  });
  report({
    what: "memory after a tenth of them, and at the end",
    required: `growth <= ${allowedGrowth[backend] / 2 ** 20} MiB`,
    got: `${gib(early)}, ${gib(end)}`,
    ok: end - early <= allowedGrowth[backend],
  });
  report({ what: "server ends when asked", required: "exit 0", got: `exit ${code}`, ok: code === 0 });
}

async function complete(url: string, prompt: string): Promise<boolean> {
  const response = await fetch(`${url}/v1/completions`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ prompt, max_tokens: 8 }),
  });
  const answer = (await response.json()) as { choices?: { text?: string }[] };
  return response.ok && typeof answer.choices?.[0]?.text === "string";
}
