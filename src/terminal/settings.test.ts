import { afterAll, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { checkedArguments } from "./arguments.ts";
import { list, UsageError } from "./command.ts";
import { readSettingsFile, type SettingSources, settingsText, settle, valuesOf } from "./settings.ts";

const args = {
  model: { type: "string", alias: "m", repeatable: true },
  port: { type: "string", default: "8080" },
  host: { type: "string", default: "127.0.0.1" },
  "max-queue": { type: "string" },
  "log-format": { type: "enum", options: list("text", "json"), default: "text" },
  webui: { type: "boolean", default: true },
  "cors-origin": { type: "string" },
  config: { type: "string" },
} as const;

const folder = mkdtempSync(join(tmpdir(), "settings-"));
afterAll(() => rmSync(folder, { recursive: true }));

function file(name: string, text: string): string {
  const path = join(folder, name);
  writeFileSync(path, text);
  return path;
}

function settled(words: readonly string[], more: Partial<SettingSources> = {}) {
  const given = checkedArguments(words, args);
  return settle({
    ...{ args, given, environment: {}, prefix: "PSIONIC_SERVE" },
    ...{ flagsOnly: ["config"], paths: ["model"], secrets: ["api-key"] },
    ...more,
  });
}

const origins = ({ settings }: ReturnType<typeof settle>) =>
  Object.fromEntries(settings.map(({ name, values, origin }) => [name, [origin, ...values]]));

test("flags come before the environment, the environment before the file, the file before defaults", () => {
  const config = readSettingsFile(
    file("a.toml", 'port = 1\nhost = "::1"\nmax_queue = 7\nlog-format = "json"\nwebui = false\n'),
  );
  const environment = { PSIONIC_SERVE_HOST: "0.0.0.0", PSIONIC_SERVE_PORT: "2", PSIONIC_SERVE_MAX_QUEUE: "" };
  const result = settled(["--port", "3"], { file: config, environment });
  expect(origins(result)).toEqual({
    port: ["flag", "3"],
    host: ["environment", "0.0.0.0"],
    "max-queue": ["file", "7"],
    "log-format": ["file", "json"],
    webui: ["file", "false"],
  });
  expect(checkedArguments(result.rawArgs, args)).toEqual(result.rawArgs);
  expect(origins(settled([]))).toMatchObject({ port: ["default", "8080"], webui: ["default", "true"] });
});

test("lists: repeated flags, a list in a file, lines or commas in the environment", () => {
  expect(valuesOf(settled(["-m", "a", "-m", "b,c"]).rawArgs, "model")).toEqual(["a", "b,c"]);
  const config = readSettingsFile(
    file("b.json", '{"model": ["x", "y"], "cors-origin": ["https://a", "https://b"]}'),
  );
  const fromFile = settled([], { file: config });
  expect(valuesOf(fromFile.rawArgs, "model")).toEqual(["x", "y"]);
  expect(valuesOf(fromFile.rawArgs, "cors-origin")).toEqual(["https://a,https://b"]);
  const fromEnv = settled([], { environment: { PSIONIC_SERVE_MODEL: "x, y\nz" } });
  expect(valuesOf(fromEnv.rawArgs, "model")).toEqual(["x", "y", "z"]);
  expect(() => checkedArguments(["--port", "1", "--port", "2"], args)).toThrow("given twice");
});

test("paths in a file are relative to it where they are there", () => {
  mkdirSync(join(folder, "models"));
  file("models/here.gguf", "");
  const config = readSettingsFile(file("c.toml", 'model = ["models/here.gguf", "owner/name:q4"]'));
  expect(valuesOf(settled([], { file: config }).rawArgs, "model")).toEqual([
    join(folder, "models/here.gguf"),
    "owner/name:q4",
  ]);
});

test("secrets come from the environment or a file, are masked, and no argument carries them", () => {
  const config = readSettingsFile(file("d.toml", 'api-key = "from-the-file"'));
  const result = settled([], { file: config });
  expect(result.settings.find(({ name }) => name === "api-key")).toMatchObject({
    ...{ values: ["from-the-file"], origin: "file", secret: true },
  });
  expect(result.rawArgs.join()).not.toContain("from-the-file");
  const text = settingsText(result.settings, args);
  expect(text).not.toContain("from-the-file");
  expect(text).toMatch(/api-key = "\*{8}" +# file: /);
  const first = settled([], { file: config, environment: { PSIONIC_SERVE_API_KEY: "from-the-environment" } });
  expect(first.settings.at(-1)).toMatchObject({ values: ["from-the-environment"], origin: "environment" });
  expect(() => settled(["--api-key", "x"])).toThrow(UsageError);
});

test("what is printed is a file that says the same", () => {
  const { settings } = settled(["-m", 'a"b', "--no-webui", "--cors-origin", "*"]);
  const text = settingsText(settings, args, ["config"]);
  expect(text).toContain("# max-queue is not set");
  expect(text).not.toContain("config");
  const path = file("e.toml", text);
  const again = settled([], { file: readSettingsFile(path) });
  const values = (all: typeof settings) => all.map((s) => [s.name, s.values]);
  expect(values(again.settings)).toEqual(values(settings));
});

test("what is wrong is said, and where", () => {
  const config = (name: string, text: string) => () =>
    settled([], { file: readSettingsFile(file(name, text)) });
  const cases: readonly (readonly [() => unknown, string])[] = [
    [config("f.toml", "prot = 1"), "f.toml: unknown setting prot; did you mean port?"],
    [
      () => settled([], { environment: { PSIONIC_SERVE_PROT: "1" } }),
      "unknown variable PSIONIC_SERVE_PROT; did you mean PSIONIC_SERVE_PORT?",
    ],
    [config("f.toml", 'config = "x"'), "unknown setting config"],
    [config("f.toml", "max-queue = 4\nmax_queue = 5"), "max-queue is there twice"],
    [config("f.toml", "log-format = 'xml'"), "f.toml: --log-format takes one of text, json"],
    [config("f.toml", "webui = 'maybe'"), "f.toml: --webui takes no value, got maybe"],
    [config("f.toml", "[port]\nx = 1"), "port takes a text, a number"],
    [config("f.toml", "port = "), "expected valid settings"],
    [config("f.json", "[1]"), "expected an object of settings, got a list"],
    [config("f.json", '{"port": 1, "port": 2}'), 'with "port" once'],
    [config("f.yaml", "port: 1"), "ends in .toml or .json"],
    [() => readSettingsFile(join(folder, "none.toml")), "expected a file that can be read"],
    [
      () => settled([], { environment: { PSIONIC_SERVE_LOG_FORMAT: "x" } }),
      "PSIONIC_SERVE_LOG_FORMAT: --log-format",
    ],
  ];
  for (const [act, message] of cases) expect(act).toThrow(message);
});
