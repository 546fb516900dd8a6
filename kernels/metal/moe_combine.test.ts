import { describe, expect, test } from "bun:test";
import { combineTitle, expectCombine } from "../moe_combine_case.ts";
import { check, deviceBytes, memory, metal, path } from "./library.ts";

describe.skipIf(!path)("moe_combine on Metal", () => {
  test.each([
    [3, 4, 37],
    [1, 1, 8],
    [2, 5, 516],
    [1, 4, 700],
  ])(combineTitle, (t, used, width) => expectCombine(metal, memory, [t, used, width]));

  test("sizes out of contract are refused", () => {
    const some = deviceBytes(64);
    expect(() => check(metal.psi_moe_combine!(some, some, some, 1, 0, 4))).toThrow(/moe_combine.*positive/);
    expect(() => check(metal.psi_moe_combine_add!(some, null, some, some, 1, 1, 4))).toThrow(/null/);
    expect(() => check(metal.psi_moe_combine_norm!(some, some, some, some, some, some, 1, 1, 0, 0))).toThrow(
      /moe_combine_norm/,
    );
  });
});
