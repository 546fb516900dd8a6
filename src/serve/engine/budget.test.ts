import { expect, test } from "bun:test";
import { backendLimits } from "./backend_limits.ts";
import { PromptBudget } from "./budget.ts";

test("a lone prompt gets whole steps; beside generation its part follows the machine's speed", () => {
  const budget = new PromptBudget();
  expect(budget.tokens(0)).toBe(backendLimits.cpu.prompt.perStep);
  expect(budget.tokens(3)).toBe(64);
  for (let i = 0; i < 50; i++) budget.measured(512, 512);
  // 1 ms a token: 80 tokens in 80 ms
  expect(budget.tokens(3)).toBe(80);
  for (let i = 0; i < 50; i++) budget.measured(64, 64 * 40);
  expect(budget.tokens(1)).toBe(32);
  for (let i = 0; i < 50; i++) budget.measured(512, 5);
  expect(budget.tokens(1)).toBe(256);
  budget.measured(1, 1000);
  expect(budget.tokens(1)).toBe(256);
});
