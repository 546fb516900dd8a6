import { expect, test } from "bun:test";
import { join } from "node:path";
import { opsPage } from "../../scripts/ops-page.ts";

test("docs/ops.md is the op table's page", async () => {
  expect(await Bun.file(join(import.meta.dir, "../../docs/ops.md")).text()).toBe(opsPage());
});
