/**
 * The rule of launch.h whose breach shows on a card alone: on fibers a kernel begins when the one before it has ended, on a
 * card as soon as that lets it, and one that does not wait reads what is not written yet, now and then.
 */
import { describe, expect, test } from "bun:test";
import { join } from "node:path";

const files = await Array.fromAsync(new Bun.Glob("*.{cu,cuh}").scan(import.meta.dir));
const texts = await Promise.all(files.sort().map((file) => Bun.file(join(import.meta.dir, file)).text()));

type Body = { readonly name: string; readonly text: string };

/** The functions whose heading has the word, each with what stands between its braces. */
function bodies(source: string, word: string): Body[] {
  const found: Body[] = [];
  for (const { index } of source.matchAll(new RegExp(`^.*\\b${word}\\b`, "gm"))) {
    const heading = /\b(?!__)(\w+)\((?!\()[^;{]*\{/.exec(
      source.slice(index).replace(/__\w+__\((?:[^()]|\([^()]*\))*\)/g, ""),
    );
    const open = source.indexOf("{", index);
    if (!heading || open < 0) continue;
    let depth = 0;
    let end = open;
    do {
      if (source[end] === "{") depth++;
      if (source[end] === "}") depth--;
      end++;
    } while (depth > 0 && end < source.length);
    found.push({ name: heading[1]!, text: source.slice(open, end) });
  }
  return found;
}

const waits = /\bwait_for_inputs\(\)/;

/** What is wrong with a kernel; `waiting`: functions that wait for those that call them. */
function fault({ text }: Body, waiting: ReadonlySet<string>): string | undefined {
  const calls = [...text.matchAll(/\b(\w+)(?:<[^;{}()]*>)?\(/g)];
  const called = calls.find(([, name]) => name === "wait_for_inputs" || waiting.has(name!));
  if (!called) return "does not wait for its inputs";
  return /\breturn;/.test(text.slice(0, called.index)) ? "returns before it waits" : undefined;
}

describe("kernels that may start while the one before them ends", () => {
  const waiting = new Set(
    texts.flatMap((text) =>
      bodies(text, "__device__")
        .filter(({ text }) => waits.test(text))
        .map(({ name }) => name),
    ),
  );
  const kernels = texts.flatMap((text) => bodies(text, "__global__"));

  test("each waits for its inputs, whichever way it goes", () => {
    expect(kernels.length).toBeGreaterThan(100);
    expect(kernels.filter((kernel) => fault(kernel, waiting)).map(({ name }) => name)).toEqual([]);
  });

  test("what does not is found", () => {
    const kernel = (body: string) => fault({ name: "k", text: `{ ${body} }` }, new Set(["joined"]));
    expect(kernel("let_next_start(); y[0] = 1;")).toBe("does not wait for its inputs");
    expect(kernel("if (i > n) return; wait_for_inputs();")).toBe("returns before it waits");
    expect(kernel("wait_for_inputs(); if (i > n) return;")).toBeUndefined();
    expect(kernel("joined<32, true>(p);")).toBeUndefined();
    const source =
      "__global__ void __launch_bounds__(A<B>::C, (2)) some_kernel(const P p) {\n  if (p.n) { wait_for_inputs(); }\n}\n";
    expect(bodies(source, "__global__")).toEqual([
      { name: "some_kernel", text: "{\n  if (p.n) { wait_for_inputs(); }\n}" },
    ]);
  });
});

/** What copies write counts as weights to kernels behind them, which the next launch therefore may not begin ahead of. */
test("copies by kernels tell the next launch to wait for them", async () => {
  const source = await Bun.file(join(import.meta.dir, "transfer.cu")).text();
  const launches = [...source.matchAll(/(\w+)\(launch\((\w+|"\w+"), (\w+)/g)].map(
    ([, by, , kernel]) => `${kernel} by ${by}`,
  );
  // a fetch writes to the host alone
  expect(launches).toEqual([
    "send_words_kernel by written",
    "copy_words_kernel by written",
    "copy_words_kernel by PSI_TRY",
  ]);
  expect(source).toContain("copying_launch = launches");
  expect(await Bun.file(join(import.meta.dir, "launch.h")).text()).toContain(
    "device.compute >= 90 && !behind_copy",
  );
});
