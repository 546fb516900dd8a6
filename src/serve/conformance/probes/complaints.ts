import { at, isCount, listAt, textAt } from "../json.ts";
import { must, type Probe, skip } from "../probe.ts";
import {
  chat,
  contextOf,
  modelEntry,
  mustBeClean,
  mustBeError,
  question,
  readChatStream,
  readChoice,
  weatherQuestion,
  weatherTool,
} from "../shapes.ts";
import { sseComments } from "../sse.ts";
import { ok } from "../target.ts";
import { severalAtOnce } from "./at_once.ts";
import { answerText, runningNow, uniquePrompt } from "./running.ts";

const path = "/v1/chat/completions";

/** Longest context, tokens, that a probe overfills. */
const mostContext = 300_000;

/** Most answers at once that a probe starts. */
const mostSlots = 16;

/** Harmony as models get it wrong: no header, a header twice, an unknown channel, a call that breaks off. */
const broken = [
  "Just text, without a channel.<|return|>",
  "<|channel|>final<|message|>One.<|start|>assistant<|channel|>final<|message|>Two.<|return|>",
  "<|channel|>nonsense<|message|>Three.<|return|>",
  "<|message|>Four.<|end|><|end|><|start|>Five.<|return|>",
  "<|channel|>commentary to=functions.<|message|>{<|call|>",
  "<|channel|>analysis<|message|>A thought that never ends",
] as const;

/** What users complain about in other servers, as far as requests can show it. */
export const complaintProbes: readonly Probe[] = [
  {
    name: "complaints.truncation",
    requires: "a prompt that does not fit is a 400 context_length_exceeded that says the limit, never cut",
    threads: "ollama/ollama#3839, #18107, NousResearch/hermes-agent#4505",
    run: async (target) => {
      const length = contextOf(await modelEntry(target));
      must(length !== undefined, "a context length in the model's entry", "none");
      if (length > mostContext) skip(`a context of ${length} tokens is not overfilled`);
      const messages = [{ role: "user", content: "a1 ".repeat(length) }];
      const reply = await target.post(path, chat(target, { messages }));
      const message = mustBeError(reply, 400);
      const code = at(reply.json, "error", "code");
      must(code === "context_length_exceeded", "the code context_length_exceeded", code);
      must(message.includes(String(length)), `the limit, ${length}, in the message`, message);
      must((message.match(/\d+/g) ?? []).length > 1, "the prompt's length too", message);
      return undefined;
    },
  },
  {
    name: "complaints.metrics",
    requires: "Prometheus metrics at /metrics",
    threads: "ollama/ollama#12467",
    run: async (target) => {
      const { status, text } = await target.get("/metrics");
      must(status === 200, "status 200", status);
      must(
        /^# TYPE \S+ counter$/m.test(text) && /^\w[\w:]*(\{.*\})? [\d.e+-]+$/m.test(text),
        "counters",
        text,
      );
      return undefined;
    },
  },
  severalAtOnce,
  {
    name: "complaints.broken-harmony",
    requires: "what a model writes wrongly becomes text; no 500, no markup in content",
    threads:
      "ggml-org/llama.cpp#25321, #20532, vllm-project/vllm#22515, openai/harmony#38, ollama/ollama#11691",
    script: { answers: [broken[0]], later: broken.flatMap((text) => [text, text]).slice(1) },
    run: async (target) => {
      for (const _ of broken) {
        const asked = chat(target, { max_tokens: 60 });
        mustBeClean("content", textAt(readChoice(await target.post(path, asked)), "message", "content"));
        mustBeClean("content", readChatStream(await target.stream(path, { ...asked, stream: true })).content);
      }
      return undefined;
    },
  },
  {
    name: "complaints.markup",
    requires: "no control markup in content, also beside tools",
    threads: "Rapid-MLX#480, vllm-mlx#562",
    run: async (target) => {
      for (const more of [{}, { messages: weatherQuestion, tools: [weatherTool] }]) {
        const reply = await target.post(path, chat(target, { max_tokens: 64, ...more }));
        const message = at(readChoice(reply), "message");
        mustBeClean("content", textAt(message, "content"));
        mustBeClean("reasoning_content", textAt(message, "reasoning_content"));
      }
      return undefined;
    },
  },
  {
    name: "complaints.tools-stream",
    requires: "tools and stream together are answered",
    threads: "sgl-project/sglang#19074",
    run: async (target) => {
      const asked = chat(target, { messages: weatherQuestion, tools: [weatherTool], stream: true });
      readChatStream(await target.stream(path, asked));
      return undefined;
    },
  },
  {
    name: "complaints.broken-arguments",
    requires: "a call whose arguments the model broke off is taken back in the history, as agents send it",
    run: async (target) => {
      const broken = { name: "get_weather", arguments: '{"city":"Os' };
      const messages = [
        ...weatherQuestion,
        {
          role: "assistant",
          content: null,
          tool_calls: [{ id: "call_1", type: "function", function: broken }],
        },
        { role: "tool", tool_call_id: "call_1", content: "error: the arguments are not JSON" },
      ];
      readChoice(await target.post(path, chat(target, { messages, tools: [weatherTool] })));
      return undefined;
    },
  },
  {
    name: "complaints.cached-turn",
    requires: "a second turn takes the first one from the cache, and says how much",
    threads: "ggml-org/llama.cpp#21831, #20153, #19794",
    run: async (target) => {
      const messages = [{ role: "user", content: uniquePrompt(120) }];
      const answer = at(
        ok(await target.post(path, chat(target, { messages, max_tokens: 8 }))),
        "choices",
        0,
        "message",
      );
      const next = [
        ...messages,
        { role: "assistant", content: textAt(answer, "content") },
        { role: "user", content: "Go on." },
      ];
      const body = ok(await target.post(path, chat(target, { messages: next, max_tokens: 8 })));
      const cached = at(body, "usage", "prompt_tokens_details", "cached_tokens");
      must(
        isCount(cached) && cached > 0,
        "usage.prompt_tokens_details.cached_tokens above 0",
        at(body, "usage"),
      );
      return `${cached} of ${String(at(body, "usage", "prompt_tokens"))} tokens`;
    },
  },
  {
    name: "complaints.disconnect",
    requires: "a client that goes away ends its generation, and no other's",
    threads: "ggml-org/llama.cpp#24496, #13262, ikawrakow/ik_llama.cpp#1929, #1020",
    run: async (target) => {
      if ((await runningNow(target)) === undefined) skip("no metric tells how many requests run");
      const leave = new AbortController();
      const asked = chat(target, { stream: true, max_tokens: 3000, ignore_eos: true });
      const response = await target.open(path, asked, { signal: leave.signal });
      if (response.status !== 200) skip(`a long answer is refused with ${response.status}`);
      await response.body!.getReader().read();
      const other = target.post(path, chat(target));
      leave.abort();
      readChoice(await other);
      const limit = performance.now() + 2000;
      while ((await runningNow(target))! > 0 && performance.now() < limit) await Bun.sleep(20);
      const left = await runningNow(target);
      must(left === 0, "no running request two seconds later", left);
      return undefined;
    },
  },
  {
    name: "complaints.queued-disconnect",
    requires: "a waiting client that goes away takes no running answer with it",
    threads: "ggml-org/llama.cpp#24496, ikawrakow/ik_llama.cpp#1929",
    run: async (target) => {
      const slots = at((await target.get("/props")).json, "total_slots");
      if (!isCount(slots) || slots === 0 || slots > mostSlots)
        skip("the number of slots is unknown or large");
      const asked = chat(target, { stream: true, max_tokens: 100, ignore_eos: true });
      const running = Array.from({ length: slots }, () => target.stream(path, asked));
      const leave = new AbortController();
      const waiting = target.open(path, asked, { signal: leave.signal }).catch(() => undefined);
      await Bun.sleep(50);
      leave.abort();
      await waiting;
      for (const reply of await Promise.all(running)) readChatStream(reply);
      return `${slots} answers ended`;
    },
  },
  {
    name: "complaints.health",
    requires: "a server whose engine is gone says so in /health, with a status that supervisors understand",
    threads: "exo-explore/exo#1458",
    script: { answers: [""], failure: new Error("gone") },
    run: async (target) => {
      const reply = await target.get("/health");
      if (reply.status === 200) skip("its engine is alive");
      must(reply.status === 503, "status 503", reply.status);
      return undefined;
    },
  },
  {
    name: "complaints.silence",
    requires: "headers at once and comments while a long prompt is read, so that no client gives up",
    threads: "anomalyco/opencode#2974, #3265, cline/cline#9328, ggml-org/llama.cpp#25158",
    script: { answers: ["<|channel|>final<|message|>Late.<|return|>"], prefillMs: 1200 },
    own: { pingMs: 100 },
    run: async (target) => {
      const reply = await target.stream(path, chat(target, { stream: true }));
      readChatStream(reply);
      if (reply.ms < 1000) skip("the answer came before a comment was due");
      must(reply.headersMs < 1000, "headers within a second", `${Math.round(reply.headersMs)} ms`);
      must(sseComments(reply.text).length > 0, "comments in the silence", "none");
      return undefined;
    },
  },
  {
    name: "complaints.same-text",
    requires: "temperature 0 gives the same text alone and beside others",
    threads: "ollama/ollama#586, ggml-org/llama.cpp#7052",
    run: async (target) => {
      const asked = chat(target, { max_tokens: 32, seed: 1 });
      const alone = answerText(readChoice(await target.post(path, asked)));
      const others = Array.from({ length: 3 }, (_, i) =>
        target.post(path, chat(target, { messages: [{ role: "user", content: `Other ${i}?` }] })),
      );
      const replies = await Promise.all([target.post(path, asked), target.post(path, asked), ...others]);
      for (const reply of replies.slice(0, 2)) {
        const text = answerText(readChoice(reply));
        must(text === alone, `the text ${JSON.stringify(alone)}`, text);
      }
      return undefined;
    },
  },
  {
    name: "complaints.warm-logits",
    requires: "a prompt from the cache gives the log-probabilities of a cold one, bit for bit",
    threads: "vllm-project/vllm#27433, #40896",
    run: async (target) => {
      const messages = [{ role: "user", content: uniquePrompt(90) }];
      const asked = chat(target, { messages, max_tokens: 8, logprobs: true, top_logprobs: 2 });
      const rows = [];
      for (const _ of ["cold", "warm"]) {
        const body = ok(await target.post(path, asked));
        const entries = listAt(body, "choices", 0, "logprobs", "content");
        if (entries.length === 0) skip("no log-probabilities are given");
        rows.push(entries.map((entry) => at(entry, "logprob")).join(" "));
      }
      must(rows[0] === rows[1], rows[0]!, rows[1]);
      return undefined;
    },
  },
  {
    name: "complaints.capabilities",
    requires: "the model's entry says modalities, capabilities and context",
    threads: "webai-at-home/webai-at-home#208",
    run: async (target) => {
      const entry = await modelEntry(target);
      must(Array.isArray(at(entry, "capabilities")), "capabilities, an array", at(entry, "capabilities"));
      must(at(entry, "modalities") !== undefined, "modalities", entry);
      must(isCount(at(entry, "context_length")), "context_length", at(entry, "context_length"));
      return undefined;
    },
  },
  {
    name: "complaints.control-text",
    requires: "control markup in a user's text stays text",
    threads: "vLLM CVE-2026-44222",
    run: async (target) => {
      const count = async (content: string): Promise<number> => {
        const messages = [{ role: "user", content }];
        const body = ok(await target.post(path, chat(target, { messages, max_tokens: 1 })));
        const tokens = at(body, "usage", "prompt_tokens");
        must(isCount(tokens), "usage.prompt_tokens", at(body, "usage"));
        return tokens;
      };
      const empty = await count(question[0].content);
      for (const marker of ["<|start|>", "<|im_start|>", "<|end|>"]) {
        const added = (await count(question[0].content + marker.repeat(40))) - empty;
        must(added >= 80, `at least 80 tokens for 40 times ${marker}`, added);
      }
      return undefined;
    },
  },
];
