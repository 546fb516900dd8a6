import { expect, test } from "bun:test";
import { PsionicError } from "../../core/error.ts";
import { metalRefusal, resolveBackend } from "./backend_option.ts";

test("the Metal lane is refused with its reason and never becomes another one", () => {
  let refused: unknown;
  try {
    resolveBackend("metal");
  } catch (error) {
    refused = error;
  }
  expect(refused).toBeInstanceOf(PsionicError);
  const { code, message, details } = refused as PsionicError;
  expect(code).toBe("unsupported");
  for (const part of [
    "backend=metal, execution_mode=native, fallback_policy=refuse",
    "no metal backend",
    "never runs on the CPU",
  ])
    expect(message).toContain(part);
  expect(details).toMatchObject({ backend: "metal", execution_mode: "native", fallback_policy: "refuse" });
});

test("off a Mac the platform is the reason, on one the build is", () => {
  expect(metalRefusal("linux").message).toContain("got linux, where there is no Metal");
  expect(metalRefusal("darwin").message).toContain("got no metal backend in this build");
});
