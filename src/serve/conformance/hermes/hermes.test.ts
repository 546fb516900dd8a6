/** The Hermes cases against backends whose model is a function: one that does everything right, and ones that fail. */
import { afterAll, expect, test } from "bun:test";
import { listAt, textAt } from "../json.ts";
import { makeTarget } from "../target.ts";
import { attributeParallel, verdictOf } from "./attribution.ts";
import { benchmarkBackends, compare } from "./benchmark.ts";
import { checkCompatibility } from "./compatibility.ts";
import { grounding, numbersIn } from "./grounding.ts";
import { parseRow } from "./launch.ts";

type Asked = {
  readonly messages: readonly { readonly role: string; readonly content: string }[];
  readonly tools?: readonly { readonly function: { readonly name: string } }[];
  readonly tool_choice?: string;
  readonly parallel_tool_calls?: boolean;
  readonly stream?: boolean;
  readonly temperature: number;
  readonly seed: number;
};

type Said = { readonly text?: string; readonly calls?: readonly (readonly [name: string, args: string])[] };
type Model = (asked: Asked) => Said;

const exactly = "Paris is sunny at 18C. Tokyo is rainy at 12C.";
const userText = (asked: Asked): string => asked.messages.find(({ role }) => role === "user")!.content;
const results = (asked: Asked): string[] =>
  asked.messages.filter(({ role }) => role === "tool").map(({ content }) => content);

/** Calls what it must, and repeats what the tools say. */
const good: Model = (asked) => {
  const user = userText(asked);
  const names = asked.tools?.map((tool) => tool.function.name) ?? [];
  if (asked.tool_choice === "required") {
    const chosen = asked.parallel_tool_calls ? names : names.slice(0, 1);
    const city = /Paris|Tokyo|Atlantis/.exec(user)?.[0];
    return { calls: chosen.map((name) => [name, name === "get_weather" ? JSON.stringify({ city }) : "{}"]) };
  }
  if (/exactly/.test(user)) return { text: exactly };
  if (/hello/.test(user)) return { text: "Hello there!" };
  return { text: `In short: ${results(asked).join(" ")}` };
};

const servers: Bun.Server<unknown>[] = [];
afterAll(() => Promise.all(servers.map((server) => server.stop(true))));
const bodies: Asked[] = [];

function serve(model: Model): string {
  const server = Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    fetch: async (request) => {
      if (request.method === "GET") return Response.json({ object: "list", data: [{ id: "m" }] });
      const asked = (await request.json()) as Asked;
      bodies.push(asked);
      const { text = null, calls = [] } = model(asked);
      const tool_calls = calls.map(([name, args], index) => ({
        ...{ index, id: `c${asked.messages.length}${index}`, type: "function" },
        function: { name, arguments: args },
      }));
      const usage = { prompt_tokens: 10, completion_tokens: 5, total_tokens: 15 };
      const finish_reason = calls.length > 0 ? "tool_calls" : "stop";
      const message = { role: "assistant", content: text, ...(calls.length > 0 ? { tool_calls } : {}) };
      if (!asked.stream) return Response.json({ choices: [{ index: 0, message, finish_reason }], usage });
      const chunks = [
        { choices: [{ index: 0, delta: message, finish_reason: null }] },
        { choices: [{ index: 0, delta: {}, finish_reason }] },
        { choices: [], usage },
      ];
      const lines = [...chunks.map((chunk) => JSON.stringify(chunk)), "[DONE]"];
      return new Response(lines.map((line) => `data: ${line}\n\n`).join(""), {
        headers: { "content-type": "text/event-stream" },
      });
    },
  });
  servers.push(server);
  return `http://127.0.0.1:${server.port}`;
}

async function check(model: Model) {
  const target = makeTarget(serve(model), "m", undefined);
  const report = await checkCompatibility({ label: "test", target, modelPath: null });
  return { report, passed: report.cases.filter(({ pass }) => pass).map(({ case_id }) => case_id) };
}

const all = [
  "required_tool_turn",
  "auto_plain_text_turn",
  "multi_turn_tool_loop",
  "parallel_tool_turn",
  "invalid_argument_truthful_refusal",
  "streamed_tool_turn",
];

test("a model that does everything right passes the six cases; the report has the contract's members", async () => {
  bodies.length = 0;
  const { report, passed } = await check(good);
  expect(passed).toEqual(all as typeof passed);
  expect(report).toMatchObject({
    kind: "psionic_hermes_qwen35_compatibility",
    ...{ overall_pass: true, passing_case_count: 6, total_case_count: 6, model: "m", backend_label: "test" },
  });
  expect(Object.keys(report).sort()).toEqual(
    [
      ...["backend_label", "base_url", "model", "model_path", "psionic_revision", "hermes_revision", "host"],
      ...["cases", "overall_pass", "passing_case_count", "total_case_count", "kind"],
    ].sort(),
  );
  for (const one of report.cases) {
    expect(Object.keys(one).sort()).toEqual(
      [
        ...["case_id", "pass", "summary", "stream_calls", "request_summaries", "api_calls", "completed"],
        ...["failed", "final_response", "messages", "details"],
      ].sort(),
    );
  }
  expect(report.cases.map(({ stream_calls }) => stream_calls)).toEqual([0, 0, 0, 0, 0, 2]);
  expect(bodies.every(({ temperature, seed }) => temperature === 0 && seed === 0)).toBe(true);
  const parallel = report.cases[3]!.request_summaries;
  expect(parallel.map(({ tool_choice }) => tool_choice)).toEqual(["required", "none"]);
  expect(parallel[0]!.parallel_tool_calls).toBe(true);
  expect(report.cases[0]!.request_summaries.map(({ tool_choice }) => tool_choice)).toEqual([
    "required",
    "auto",
  ]);
});

const failing: readonly (readonly [what: string, model: Model, passes: readonly string[]])[] = [
  [
    "one call a turn",
    (asked) => {
      const said = good(asked);
      return said.calls ? { calls: said.calls.slice(0, 1) } : said;
    },
    all.filter((id) => id !== "parallel_tool_turn"),
  ],
  [
    "two calls where one is asked for",
    (asked) => {
      const said = good(asked);
      return said.calls?.length === 1 ? { calls: [...said.calls, ...said.calls] } : said;
    },
    all.filter((id) => id !== "required_tool_turn"),
  ],
  [
    "no calls at all",
    (asked) => ({ text: good({ ...asked, tool_choice: "none" }).text! }),
    ["auto_plain_text_turn"],
  ],
  [
    "invented temperatures",
    (asked) => {
      const { text, calls } = good(asked);
      return calls ? { calls } : { text: text!.replace("18C", "21C") };
    },
    // the exact sentence is wrong, and so is what is said of Paris
    ["auto_plain_text_turn", "invalid_argument_truthful_refusal", "streamed_tool_turn"],
  ],
  [
    "a number beside a true text",
    (asked) => {
      const { text, calls } = good(asked);
      return calls ? { calls } : { text: `${text} I am 99 % sure.` };
    },
    [],
  ],
  [
    "a call that never ends",
    (asked) => (asked.tools ? { calls: [["get_weather", "{"]] } : { text: "x" }),
    [],
  ],
];

test("what a model gets wrong fails the cases that are about it", async () => {
  for (const [what, model, passes] of failing) {
    const { report, passed } = await check(model);
    expect(`${what}: ${passed.join()}`).toBe(`${what}: ${passes.join()}`);
    expect(report.overall_pass).toBe(false);
    expect(report.passing_case_count).toBe(passes.length);
  }
});

test("grounding: the numbers of an answer are those of the tools", () => {
  expect(numbersIn("18C, 1,234.5 and 18,5; −3 on 2026.11.25")).toEqual([18, 1234.5, 18.5, 3, 2026, 11, 25]);
  expect(grounding("It is 18 degrees.", ['{"temperature":"18C"}'])).toMatchObject({ pass: true });
  expect(grounding("It is 18.0.", ["18"])).toMatchObject({ pass: true });
  expect(grounding("It is 21.", ["18C"])).toEqual({
    ...{ pass: false, stated: [21], returned: [18], ungrounded: [21] },
  });
  expect(grounding("It is １８.", ["18"])).toMatchObject({ stated: [18], pass: true });
  expect(grounding("Sunny.", [])).toMatchObject({ pass: true });
});

test("rows: running servers, ones to be started, and what cannot be", async () => {
  expect(parseRow("psionic/2b=http://a:1/v1#m")).toEqual({
    ...{ label: "psionic/2b", backend: "psionic", baseUrl: "http://a:1", model: "m" },
  });
  expect(parseRow("ollama=start:q:2b")).toMatchObject({ baseUrl: undefined, model: "q:2b" });
  for (const wrong of ["x", "a=", "vllm=start:m", "psionic=start:", "psionic=ftp://x"])
    expect(() => parseRow(wrong)).toThrow();
});

const programs = { "llama.cpp": "no-such-llama", ollama: "no-such-ollama" };

test("parallel attribution: a verdict per row and one of all", async () => {
  const one: Model = (asked) => failing[0]![1](asked);
  const report = await attributeParallel(
    [
      parseRow(`psionic/2b=${serve(good)}#m`),
      parseRow(`ollama/2b=${serve(one)}#m`),
      parseRow("llama.cpp/2b=start:/no/file"),
    ],
    programs,
    undefined,
  );
  expect(report.rows.map(({ verdict, row_status }) => `${verdict} ${row_status}`)).toEqual([
    ...["solved ready", "unsolved ready", "unreachable missing_model"],
  ]);
  expect(report.verdict).toBe("strict_parallel_tool_turn_unsolved_on_peer_rows_only");
  const row = (backend_label: string, verdict: "solved" | "unsolved" | "unreachable") => ({
    backend_label,
    verdict,
  });
  expect(verdictOf([row("psionic", "solved"), row("ollama", "unreachable")])).toBe(
    "strict_parallel_tool_turn_solved_on_all_reachable_rows",
  );
  expect(verdictOf([row("psionic", "unsolved"), row("ollama", "solved")])).toEndWith("psionic_rows_only");
  expect(verdictOf([row("psionic", "unsolved")])).toEndWith("unsolved_on_all_reachable_rows");
  expect(verdictOf([])).toBe("no_reachable_rows");
});

test("the benchmark has a row for each backend, also for one that does not start", async () => {
  const file = import.meta.path;
  const report = await benchmarkBackends(
    [
      parseRow(`psionic=${serve(good)}`),
      parseRow(`llama.cpp=start:${file}`),
      parseRow("ollama=start:x"),
      parseRow("other=http://127.0.0.1:9#m"),
    ],
    programs,
    undefined,
  );
  expect(report.startup_probe.map(({ row_status }) => row_status)).toEqual([
    ...(["ready", "missing_binary", "missing_binary", "startup_failure"] as const),
  ]);
  const [row] = report.backends;
  expect(row).toMatchObject({ overall_pass: true, model: "m", row_status: "ready" });
  expect(row!.cases.map(({ case_id }) => case_id)).toEqual([
    ...(["auto_plain_text_turn", "required_tool_turn", "multi_turn_tool_loop"] as const),
    ...(["streamed_tool_turn", "serialized_two_city_tool_loop"] as const),
  ]);
  const serialized = row!.cases[4]!;
  expect(serialized.usage).toEqual({ prompt_tokens: 30, completion_tokens: 15, total_tokens: 45 });
  expect(serialized.completion_tok_s).toBeCloseTo(15 / serialized.wallclock_s, 1);
  expect(row!.cases[3]!.first_delta_s).toBeGreaterThan(0);
  expect(report.comparison.faster_backend).toBeNull();
  const timed = (backend_label: string, mean_case_wallclock_s: number) => ({
    ...{ ...row!, backend_label, mean_case_wallclock_s },
  });
  expect(compare([timed("a", 2), timed("b", 1)])).toMatchObject({ faster_backend: "b", all_pass: true });
  // the summary request offers no tools, the others one each
  const turns = bodies.slice(-3);
  expect(
    turns.map((asked) => listAt(asked, "tools").map((tool) => textAt(tool, "function", "name"))),
  ).toEqual([...[["get_paris_weather"], ["get_tokyo_weather"], []]]);
});
