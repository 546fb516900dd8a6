import { expect, test } from "bun:test";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { lockFolder } from "./folder_lock.ts";

function inFolder(run: (folder: string) => void | Promise<void>): () => Promise<void> {
  return async () => {
    const folder = mkdtempSync(join(tmpdir(), "psionic-lock-"));
    try {
      await run(folder);
    } finally {
      rmSync(folder, { recursive: true });
    }
  };
}

test(
  "one at a time, and a dead one's claim counts for nothing",
  inFolder((folder) => {
    const path = join(folder, "lock");
    const held = lockFolder(path, "here");
    expect(() => lockFolder(path, "here")).toThrow(
      `[here] expected a folder that no other process is at, got process ${process.pid}`,
    );
    held[Symbol.dispose]();
    expect(existsSync(path)).toBe(false);
    mkdirSync(path);
    for (const dead of ["999999999-1-0123456789ab", `${process.pid}-1-0123456789ab`])
      writeFileSync(join(path, dead), "");
    lockFolder(path, "here")[Symbol.dispose]();
    expect(existsSync(path)).toBe(false);
  }),
);

test(
  "a file or a link in its place is refused, and nothing is written through the link",
  inFolder((folder) => {
    const outside = join(folder, "outside");
    mkdirSync(outside);
    symlinkSync(outside, join(folder, "link"));
    writeFileSync(join(folder, "file"), "12");
    for (const name of ["link", "file"])
      expect(() => lockFolder(join(folder, name), "here")).toThrow("a folder of claims");
    expect(readdirSync(outside)).toEqual([]);
  }),
);

test(
  "many processes among dead claims: never two at once, and no work is lost",
  inFolder(async (folder) => {
    const path = join(folder, "lock");
    const counter = join(folder, "counter");
    writeFileSync(counter, "0");
    const source = join(import.meta.dir, "folder_lock.ts");
    const script = `
      const { lockFolder } = await import(${JSON.stringify(source)});
      const fs = require("node:fs");
      let done = 0;
      while (done < 25) {
        let lock;
        try { lock = lockFolder(${JSON.stringify(path)}, "x"); } catch { Bun.sleepSync(Math.random() * 4); continue; }
        fs.writeFileSync(${JSON.stringify(join(folder, "inside"))}, "", { flag: "wx" });
        const n = Number(fs.readFileSync(${JSON.stringify(counter)}, "utf8"));
        fs.writeFileSync(${JSON.stringify(counter)}, String(n + 1));
        fs.rmSync(${JSON.stringify(join(folder, "inside"))});
        // what a process that was killed here would leave
        fs.writeFileSync(${JSON.stringify(path)} + "/999999999-1-" + Math.random().toString(16).slice(2).padEnd(12, "0").slice(0, 12), "");
        lock[Symbol.dispose]();
        done++;
      }`;
    const children = Array.from({ length: 4 }, () =>
      Bun.spawn([process.execPath, "-e", script], { stderr: "pipe" }),
    );
    for (const child of children)
      expect([await child.exited, await new Response(child.stderr).text()]).toEqual([0, ""]);
    expect(readFileSync(counter, "utf8")).toBe("100");
  }),
  30_000,
);
