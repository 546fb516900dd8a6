import { expect, test } from "bun:test";
import { isAbsolute, relative } from "node:path";
import fc from "fast-check";
import { PsionicError } from "../../core/error.ts";
import { chooseFiles, type HubFile } from "./hub.ts";
import { folderOf, modelsFolder } from "./manifest.ts";
import { checkPath, parseReference } from "./reference.ts";

test("every spelling of a repository", () => {
  const hub = (text: string) => {
    const reference = parseReference(text);
    if (reference.kind !== "hub") throw new Error("expected a hub's");
    return [reference.repository, reference.choice ?? null, reference.revision ?? null];
  };
  expect(hub("org/repo")).toEqual(["org/repo", null, null]);
  expect(hub(" org/repo:Q4_K_M ")).toEqual(["org/repo", "Q4_K_M", null]);
  expect(hub("org/repo:sub/m-Q8_0.gguf")).toEqual(["org/repo", "sub/m-Q8_0.gguf", null]);
  expect(hub("org/repo@v1.2:Q8_0")).toEqual(["org/repo", "Q8_0", "v1.2"]);
  expect(hub("hf.co/org/repo:Q8_0")).toEqual(["org/repo", "Q8_0", null]);
  expect(hub("https://huggingface.co/org/repo/")).toEqual(["org/repo", null, null]);
  expect(hub("https://hf.co/org/repo/tree/main")).toEqual(["org/repo", null, null]);
  expect(hub("https://huggingface.co/org/repo/resolve/abc/x%20y.gguf?download=true")).toEqual([
    ...["org/repo", "x y.gguf", "abc"],
  ]);
  expect(parseReference("https://example.org/a/m.gguf?x=1")).toMatchObject({ kind: "url" });
});

test("nothing that is typed throws anything but a refusal, and no name leaves the store", () => {
  const pieces = fc.constantFrom(
    ..."/:@.%~\\ -_",
    "..",
    "org",
    "repo",
    "hf.co/",
    "https://",
    "gguf",
    "\u0000",
    "é",
  );
  fc.assert(
    fc.property(fc.array(pieces, { maxLength: 12 }), (parts) => {
      try {
        const reference = parseReference(parts.join(""));
        if (reference.kind === "url") return;
        const choice = reference.choice?.replaceAll("/", "--");
        const name = choice === undefined ? reference.repository : `${reference.repository}:${choice}`;
        const below = relative(modelsFolder(), folderOf(name));
        expect(below.startsWith("..") || isAbsolute(below)).toBe(false);
      } catch (error) {
        expect(error).toBeInstanceOf(PsionicError);
      }
    }),
    { numRuns: 2000, seed: 1 },
  );
  for (const path of ["a/b.gguf", "model.safetensors", "..a", "a b"]) checkPath(path);
  for (const path of ["", ".", "..", "../a", "a/../b", "/a", "a//b", "a\\b", "c:x", "a\nb"]) {
    expect(() => checkPath(path)).toThrow("file name");
  }
});

test("choosing among files", () => {
  const files = (...paths: string[]): HubFile[] =>
    paths.map((path) => ({ path, bytes: 1, sha256: null, gitBlob: null }));
  const split = files("Q8_0/m-Q8_0-00002-of-00002.gguf", "Q8_0/m-Q8_0-00001-of-00002.gguf", "m-F16.gguf");
  expect(chooseFiles("r", split, "Q8_0")).toMatchObject({
    ...{ choice: "Q8_0", main: "Q8_0/m-Q8_0-00001-of-00002.gguf" },
    files: [{ path: "Q8_0/m-Q8_0-00001-of-00002.gguf" }, { path: "Q8_0/m-Q8_0-00002-of-00002.gguf" }],
  });
  expect(chooseFiles("r", split, "f16").choice).toBe("F16");
  expect(() => chooseFiles("r", split)).toThrow("It has Q8_0, F16");
  const twice = files("a-Q8_0.gguf", "b-Q8_0.gguf", "a-UD-Q4_K_XL.gguf", "a-Q4_K_M.gguf");
  expect(() => chooseFiles("r", twice, "Q8_0")).toThrow("It has a-Q8_0, b-Q8_0");
  expect(chooseFiles("r", twice, "b-Q8_0.gguf").choice).toBe("b-Q8_0");
  expect(chooseFiles("r", twice).choice).toBe("Q4_K_M");
  expect(chooseFiles("r", twice, "UD-Q4_K_XL").choice).toBe("UD-Q4_K_XL");
  expect(chooseFiles("r", files("m.gguf", "mmproj-F16.gguf", "m.imatrix.gguf"))).toMatchObject({
    choice: "m",
  });
  expect(() => chooseFiles("r", files("README.md"))).toThrow("GGUF files, or config.json and safetensors");
  const both = files("config.json", "model.safetensors", "m-Q4_0.gguf", "tokenizer.json");
  expect(chooseFiles("r", both).choice).toBe("Q4_0");
  expect(chooseFiles("r", both, "checkpoint").files.map(({ path }) => path)).toEqual([
    ...["config.json", "tokenizer.json", "model.safetensors"],
  ]);
  expect(() => chooseFiles("r", both, "(.*)+$")).toThrow("file or quantisation");
});
