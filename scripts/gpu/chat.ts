/** The default model's greedy answers, on the device and on the CPU. */
import { type Check, json, psionic } from "./check.ts";

const questions = [
  "Why does HTTPS matter?",
  "What does a server do with a prefix cache?",
  "How do I build psionic from source?",
  "Which file formats can be loaded?",
];
type Answer = { readonly content: string; readonly reasoning?: string };

export async function chat({ backend, report }: Check): Promise<void> {
  for (const question of questions) {
    const ask = (on: string) =>
      json<Answer>(psionic("run", "-p", question, "-n", "160", "--backend", on, "--json"), 60);
    const [device, cpu] = [await ask(backend), await ask("cpu")];
    const text = (a: Answer) => `${a.reasoning ?? ""}\n${a.content}`;
    const same = text(device) === text(cpu) && device.content !== "";
    let at = 0;
    while (at < text(cpu).length && text(device)[at] === text(cpu)[at]) at++;
    report({
      what: `"${question}"`,
      required: "the CPU's answer",
      got: same
        ? `the same ${text(cpu).length} characters`
        : `differs at character ${at} of ${text(cpu).length}`,
      ok: same,
    });
  }
}
