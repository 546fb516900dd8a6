import { describe, expect, test } from "bun:test";
import { cases, harnessOptions, requestBody, visibleOutput } from "./llama-harness.ts";

const needed = ["--model", "m.gguf", "--llama-bin", "llama-server"];

describe("flags", () => {
  test("defaults of Linux and of macOS", () => {
    const linux = harnessOptions(needed, "linux");
    expect(linux).toMatchObject({
      server: "both",
      psionicBackend: "cuda",
      ctx: 4096,
      ngl: 999,
      maxTokens: 64,
    });
    expect(linux).toMatchObject({ host: "127.0.0.1", port: 8099, startupSeconds: 60, requestSeconds: 60 });
    expect(harnessOptions(needed, "darwin")).toMatchObject({ psionicBackend: "metal", ctx: 1024, ngl: 4 });
  });

  test("no layers are asked for on the CPU, unless a number is given", () => {
    expect(harnessOptions([...needed, "--psionic-backend", "cpu"], "linux").ngl).toBe(0);
    expect(harnessOptions([...needed, "--psionic-backend", "cpu", "--ngl", "3"], "linux").ngl).toBe(3);
  });

  test.each([
    [["--llama-bin", "x"], "--model: expected a file"],
    [["--model", "m"], "--llama-bin: expected a program"],
    [[...needed, "--server", "vllm"], "--server: expected both, psionic, llama, got vllm"],
    [[...needed, "--port", "eighty"], "--port: expected a whole number from 1 to 65535, got eighty"],
    [[...needed, "--port", "70000"], "--port: expected a whole number from 1 to 65535, got 70000"],
    [[...needed, "--ngl", ""], "--ngl: expected a whole number from 0"],
    [[...needed, "--max-tokens", "0"], "--max-tokens: expected a whole number from 1"],
    [[...needed, "--psionic-backend", "vulkan"], "--psionic-backend: expected auto, cpu, cuda, metal"],
    [[...needed, "--quiet"], "--quiet"],
  ] as const)("%j is refused", (args, text) => {
    expect(() => harnessOptions(args, "linux")).toThrow(text);
  });

  test("psionic alone needs no llama-server", () => {
    expect(harnessOptions(["--model", "m", "--server", "psionic"], "linux").llamaBin).toBeUndefined();
  });
});

test("the first and the last request are the same, the one between differs in a word", () => {
  const bodies = cases.map((asked) => requestBody({ model: "/a/b/m.gguf", maxTokens: 64 }, asked));
  expect(bodies[2]).toEqual(bodies[0]!);
  expect(bodies[0]).toMatchObject({
    model: "m.gguf",
    max_tokens: 64,
    temperature: 0,
    reasoning_format: "none",
  });
  expect(bodies[0]!.messages.map((m) => m.role)).toEqual(["system", "developer", "user"]);
  expect(bodies[1]!.messages[2]!.content).toBe(bodies[0]!.messages[2]!.content.replace("HTTPS", "TLS"));
});

test.each([
  ["\nplain\ntext\n\n", "plain\ntext"],
  ["<|channel|>final<|message|>A.<|return|>", "A."],
  ["<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>A.", "A."],
  ["<|channel|>analysis<|message|>never ends", ""],
  ["<think>\nHm.\n</think>\n\nA. ", "A. "],
] as const)("%j shows %j", (content, visible) => {
  expect(visibleOutput(content)).toBe(visible);
});
