import { expect, test } from "bun:test";
import { join } from "node:path";
import { optionSpellings } from "../terminal/help.ts";
import { commands } from "./commands.ts";

const main = join(import.meta.dir, "..", "main.ts");

async function script(shell: string): Promise<string> {
  const child = Bun.spawn([process.execPath, main, "completions", shell], {
    stdout: "pipe",
    stderr: "inherit",
  });
  const text = await new Response(child.stdout).text();
  expect(await child.exited).toBe(0);
  return text;
}

test("every shell gets every command and option", async () => {
  for (const shell of ["bash", "zsh", "fish"]) {
    const text = await script(shell);
    const all = Object.entries(commands).flatMap(([name, { load, actions = {} }]) => [
      [name, load] as const,
      ...Object.entries(actions).flatMap(([word, action]) =>
        action.load ? [[word, action.load] as const] : [],
      ),
    ]);
    for (const [name, load] of all) {
      expect(text).toContain(name);
      for (const option of optionSpellings((await load()).args)) {
        const bare = option.replace(/^-+/, "");
        const fish = [`-l ${bare}`, `-s ${bare}`, `-o ${bare}`].some((spelling) => text.includes(spelling));
        expect([shell, name, option, shell === "fish" ? fish : text.includes(option)]).toEqual([
          shell,
          name,
          option,
          true,
        ]);
      }
    }
  }
});

test("bash takes the script and completes by it", async () => {
  const text = await script("bash");
  const ask = (words: readonly string[], before = "") => {
    const list = words.map((w) => `'${w}'`).join(" ");
    const code = `${before}\n${text}\nCOMP_WORDS=(${list}); COMP_CWORD=${words.length - 1}; _psionic; echo "\${COMPREPLY[@]}"`;
    return Bun.spawnSync(["bash", "-c", code]).stdout.toString().trim();
  };
  expect(ask(["psionic", "to"])).toBe("tokenize");
  expect(ask(["psionic", "serve", "--por"])).toBe("--port");
  expect(ask(["psionic", "train", "wat"])).toBe("watch");
  expect(ask(["psionic", "train", "watch", "--onc"])).toBe("--once");
  expect(ask(["psionic", "train", "fetch-checkpoint", "--receipt"])).toBe("--receipt-digest");
  expect(ask(["psionic", "train", "manifest", "--man"])).toBe("--manifest");
  // a function of that name stands in for the program
  const stored = (words: readonly string[]) =>
    ask(words, 'psionic() { [ "$*" = "list --names" ] && echo org/repo:Q8_0; }');
  expect(stored(["psionic", "run", "-m", "org/"])).toBe("org/repo:Q8_0");
  expect(stored(["psionic", "rm", "org"])).toBe("org/repo:Q8_0");
});

test("a command's table and its own name agree", async () => {
  for (const [name, { load }] of Object.entries(commands)) {
    const { meta, examples } = await load();
    expect(meta.name).toBe(name);
    expect(examples.length).toBeGreaterThan(0);
    for (const example of examples) expect(example).toContain(`psionic ${name}`);
  }
});
