import { afterAll, describe, expect, test } from "bun:test";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import { checkName, launchdPlist, type ServicePlan, systemdUnit } from "./unit.ts";

const folder = mkdtempSync(join(tmpdir(), "service-"));
afterAll(() => rmSync(folder, { recursive: true }));

const plan: ServicePlan = {
  name: "psionic",
  system: false,
  command: [process.execPath, "serve", "--config", '/home/me/my "models"/100% & <x> $HOME.toml'],
  environment: { PSIONIC_HOME: "/home/me/the models" },
  logPath: "/tmp/psionic.log",
};

const verifier = Bun.which("systemd-analyze");

describe("systemd", () => {
  test("words are literal: quotes, specifiers, variables", () => {
    const unit = systemdUnit(plan);
    expect(unit).toContain('"/home/me/my \\"models\\"/100%% & <x> $$HOME.toml"');
    expect(unit).toContain('Environment="PSIONIC_HOME=/home/me/the models"');
    expect(unit).toContain("WantedBy=default.target");
    expect(() => systemdUnit({ ...plan, command: ["/x", "a\nExecStartPre=/bin/evil"] })).toThrow(
      "line breaks",
    );
  });

  test("a service of the machine has a user of its own and may write its own folders only", () => {
    const unit = systemdUnit({ ...plan, name: "models", system: true });
    for (const line of [
      "DynamicUser=yes",
      "StateDirectory=models",
      "ProtectSystem=strict",
      "CapabilityBoundingSet=",
    ]) {
      expect(unit.split("\n")).toContain(line);
    }
    expect(unit).toContain("WantedBy=multi-user.target");
    // JavaScript is compiled while it runs
    expect(unit).not.toContain("MemoryDenyWriteExecute");
  });

  test.skipIf(!verifier)("systemd itself finds nothing wrong", async () => {
    for (const system of [false, true]) {
      const path = join(folder, `psionic-${system}.service`);
      writeFileSync(path, systemdUnit({ ...plan, system }));
      const scope = system ? [] : ["--user"];
      const child = Bun.spawn([verifier!, "verify", "--man=no", ...scope, path], {
        ...{ stdout: "pipe", stderr: "pipe", env: { ...process.env, XDG_RUNTIME_DIR: folder } },
      });
      const text = (await new Response(child.stdout).text()) + (await new Response(child.stderr).text());
      const own = text.split("\n").filter((line) => line.includes(path) || line.includes("psionic-"));
      expect([system, own]).toEqual([system, []]);
      expect([system, await child.exited, text]).toEqual([system, 0, text]);
    }
  });
});

test("launchd: a property list that parses to what was meant", () => {
  const text = launchdPlist(plan);
  expect(parsePlist(text)).toEqual({
    Label: "psionic",
    ProgramArguments: [...plan.command],
    EnvironmentVariables: { ...plan.environment },
    RunAtLoad: true,
    KeepAlive: { SuccessfulExit: false },
    ThrottleInterval: 5,
    ExitTimeOut: 120,
    Umask: 63,
    ProcessType: "Interactive",
    StandardOutPath: "/tmp/psionic.log",
    StandardErrorPath: "/tmp/psionic.log",
  });
});

test("names are names", () => {
  for (const name of ["psionic", "psionic-2", "org.example.psionic"]) checkName(name);
  for (const name of ["", "../x", "a/b", "a b", "-x", "a..b", "x@y", "a\n"]) {
    expect(() => checkName(name)).toThrow("--name");
  }
});

describe("the command", () => {
  const main = join(import.meta.dir, "..", "..", "main.ts");
  const run = async (...words: string[]) => {
    const child = Bun.spawn([process.execPath, main, "service", ...words], {
      ...{ stdout: "pipe", stderr: "pipe", env: { ...process.env, PSIONIC_HOME: folder, NO_COLOR: "1" } },
    });
    const [out, err] = await Promise.all([
      new Response(child.stdout).text(),
      new Response(child.stderr).text(),
    ]);
    return { code: await child.exited, out, err };
  };

  test("install, install again, uninstall", async () => {
    const into = join(folder, "units");
    const config = join(folder, "serve.toml");
    writeFileSync(config, 'port = 9000\nlog-format = "json"\n');
    const path = join(into, "psionic.service");
    const first = await run("install", "--manager", "systemd", "--folder", into, "--config", config);
    expect(first).toMatchObject({ code: 0, out: `${path}: written\n` });
    expect(first.err).toContain("systemctl --user enable --now psionic.service");
    const unit = readFileSync(path, "utf8");
    expect(unit).toContain(`serve --config ${config}`);
    expect((await run("print", "--manager", "systemd", "--config", config)).out).toBe(unit);
    const near = await run("print", "--manager", "systemd", "--config", relative(process.cwd(), config));
    expect(near.out).toBe(unit);
    const plist = await run("install", "--manager", "launchd", "--folder", relative(process.cwd(), into));
    expect(plist.err).toContain(` ${into}/psionic.plist`);
    const again = await run("install", "--manager", "systemd", "--folder", into, "--config", config);
    expect(again.out).toBe(`${path}: as it was\n`);
    expect((await run("uninstall", "--manager", "systemd", "--folder", into)).out).toBe(`${path}: removed\n`);
    expect(existsSync(path)).toBe(false);
    expect((await run("uninstall", "--manager", "systemd", "--folder", into)).code).toBe(1);
  }, 120_000);

  test("another's file, or a masked unit, stays without --force", async () => {
    const into = join(folder, "theirs");
    mkdirSync(into);
    const path = join(into, "psionic.service");
    const theirs = "[Service]\nExecStart=/bin/true\n";
    writeFileSync(path, theirs);
    for (const action of ["install", "uninstall"]) {
      const result = await run(action, "--manager", "systemd", "--folder", into);
      expect(result.code).toBe(1);
      expect(result.err).toContain("--force");
      expect(readFileSync(path, "utf8")).toBe(theirs);
    }
    symlinkSync("/nowhere/at/all", join(into, "masked.service"));
    const masked = await run("install", "--manager", "systemd", "--folder", into, "--name", "masked");
    expect([masked.code, existsSync(join(into, "masked.service"))]).toEqual([1, false]);
    expect((await run("install", "--manager", "systemd", "--folder", into, "--force")).code).toBe(0);
    expect(readFileSync(path, "utf8")).toContain("Made by psionic service");
  }, 120_000);

  test("settings that serve would refuse are refused before a service has them", async () => {
    const config = join(folder, "bad.toml");
    writeFileSync(config, "prot = 1");
    const result = await run("install", "--folder", folder, "--config", config);
    expect([result.code, result.err.includes("did you mean port?")]).toEqual([2, true]);
    writeFileSync(config, "port = 99999");
    const range = await run("install", "--folder", folder, "--config", config);
    expect([range.code, range.err.includes("--port takes a whole number")]).toEqual([2, true]);
    writeFileSync(config, 'host = "0.0.0.0"');
    const open = await run("install", "--folder", folder, "--config", config);
    expect([open.code, open.err.includes("when no API key is set")]).toEqual([1, true]);
    expect(existsSync(join(folder, "psionic.service"))).toBe(false);
    expect((await run("start")).code).toBe(2);
  }, 120_000);
});

/** The part of property lists that ours use. */
function parsePlist(text: string): unknown {
  const tokens = [...text.replace(/<!--.*?-->|<[?!].*?>/gs, "").matchAll(/<(\/?)(\w+)[^>]*?(\/?)>|([^<]+)/g)];
  let at = 0;
  const unescaped = (raw: string) =>
    raw.replaceAll("&lt;", "<").replaceAll("&gt;", ">").replaceAll("&quot;", '"').replaceAll("&amp;", "&");
  const skip = () => {
    while (tokens[at]?.[4]?.trim() === "") at += 1;
  };
  const leaf = () => {
    const raw = tokens[at]?.[4];
    if (raw !== undefined) at += 1;
    at += 1;
    return unescaped(raw ?? "");
  };
  const value = (): unknown => {
    skip();
    const [, , tag, empty] = tokens[at++]!;
    if (empty) return tag === "true";
    if (tag === "string" || tag === "key") return leaf();
    if (tag === "integer") return Number(leaf());
    const items: unknown[] = [];
    for (skip(); !tokens[at]?.[1]; skip()) items.push(value());
    at += 1;
    if (tag === "array") return items;
    if (tag !== "dict") return items[0];
    return Object.fromEntries(items.flatMap((item, i) => (i % 2 === 0 ? [[item, items[i + 1]]] : [])));
  };
  return value();
}
