/** The page as people have it: Chromium, the real server, the built-in model or one that says what a test wants. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { join } from "node:path";
import type { Browser } from "playwright-core";
import { unexpected } from "../../core/error.ts";
import type { ServedModel } from "../http/options.ts";
import { parseApiKeys } from "../http/security.ts";
import { testServer, until } from "../http/testing/client.ts";
import { call, harmonyModel, scriptedModel, speech } from "../http/testing/scripted.ts";
import { openServedModel } from "../served_model.ts";
import { ask, askAndWait, browserPath, lowContrast, modelIs, openBrowser, visit } from "./testing/browser.ts";

const modelPath = join(import.meta.dir, "../../../fixtures/docs-oss-13m-mxfp4.gguf");
const sentence =
  "HTTPS protects users by encrypting traffic, preventing tampering, and confirming they are connected to the right website.";
const reason =
  browserPath === undefined ? " (skipped: no Chromium on PATH; scripts/test.sh installs it)" : "";
const everything = [
  ...[
    "# Title",
    "",
    "Some **bold** and `code`, [a link](https://example.com).",
    "",
    "1. one",
    "2. two",
    "",
    "> quoted",
    "",
  ],
  ...[
    "```ts",
    `const long = "${"x".repeat(200)}";`,
    "```",
    "",
    "| a | b |",
    "|---|---|",
    `| ${"wide ".repeat(12)} | ${"y".repeat(60)} |`,
  ],
].join("\n");

describe.skipIf(browserPath === undefined)(`the page in Chromium${reason}`, () => {
  let browser: Browser;
  let model: ServedModel;

  beforeAll(async () => {
    model = await openServedModel({ modelPath, backend: "cpu", slots: 4, contextLength: 1024 });
    browser = await openBrowser();
  }, 60_000);

  afterAll(async () => {
    await browser?.close();
    await model?.engine.close(true);
  });

  test("a question is answered by the built-in model, and the server's view shows what was measured", async () => {
    await using server = await testServer(model);
    await using visited = await visit(browser, server.url);
    const { page, complaints } = visited;
    await modelIs(page, "docs-oss-13m-mxfp4.gguf");
    await page.click("text=Why does HTTPS matter?");
    await page.keyboard.press("Enter");
    const answer = page.locator(".answer[aria-busy=false]");
    await answer.waitFor();
    expect(await answer.locator(".markdown").textContent()).toBe(sentence);
    await answer.locator(".figures", { hasText: "tok/s" }).waitFor();
    expect(await answer.locator(".figures").textContent()).toMatch(
      /^\d+ tokens · [\d.,]+ tok\/s · first after .+ · prompt \d+/,
    );
    expect(await page.textContent("#announcer")).toContain(sentence);
    await page.click("[aria-label='Answer again']");
    await page.locator(".answer[aria-busy=false] .figures", { hasText: "cached" }).waitFor();
    expect(await page.locator(".answer").count()).toBe(1);

    await page.click("#tab-server");
    await page.locator(".log-frame tbody tr.fine").nth(1).waitFor();
    const newest = page.locator(".log-frame tbody tr").first();
    expect(await newest.locator("[data-title=Request]").textContent()).toBe("chat/completions");
    expect(await newest.locator("[data-title='First token']").textContent()).toMatch(/^[\d.]+ (ms|s)$/);
    expect(await newest.locator("[data-title='Tokens/s']").textContent()).toMatch(/^[\d.,]+$/);
    const facts = await page.textContent("#models");
    for (const fact of ["cpu", "native", "psionic", "refuse", "MXFP4"]) expect(facts).toContain(fact);
    const hits = page.locator("#live-cache", { hasText: "%" });
    await hits.waitFor();
    expect(await page.textContent("#live-memory")).toMatch(/^\d+ [MG]B$/);
    await page.locator(".sparkline .line[d]").first().waitFor({ state: "attached" });
    // a reload keeps what was said
    await page.reload();
    expect(await page.locator(".answer .markdown").textContent()).toBe(sentence);
    await page.click("#clear");
    expect(await page.locator(".turn").count()).toBe(0);
    expect(complaints).toEqual([]);
  }, 60_000);

  test("text comes as it is made; Escape and the button stop it, and the server with it", async () => {
    const scripted = harmonyModel({
      answers: [speech("word ".repeat(400), "thought")],
      tokenMs: 5,
      contextLength: 8192,
    });
    await using server = await testServer(scripted);
    await using visited = await visit(browser, server.url);
    const { page, complaints } = visited;
    await modelIs(page, "Test-Model.gguf");
    const stops = [() => page.keyboard.press("Escape"), () => page.click("#stop")];
    for (const [i, stop] of stops.entries()) {
      await ask(page, "Go on");
      const answer = page.locator(".answer").nth(i);
      await answer.locator(".markdown", { hasText: "word word" }).waitFor();
      expect(await answer.getAttribute("aria-busy")).toBe("true");
      const thoughts = answer.locator(".thoughts");
      expect([await thoughts.isVisible(), await thoughts.getAttribute("open")]).toEqual([true, null]);
      await stop();
      await answer.locator(".figures", { hasText: "Stopped" }).waitFor();
      await until(() => scripted.engine.running === 0);
      const text = (await answer.locator(".markdown").textContent()) ?? "";
      expect(text.length).toBeLessThan(2000);
      await Bun.sleep(50);
      expect(await answer.locator(".markdown").textContent()).toBe(text);
      expect(await page.evaluate(() => document.activeElement?.id)).toBe("message");
    }
    expect(complaints).toEqual([]);
  }, 60_000);

  test("texts run the way of their script; code runs from left to right", async () => {
    const hebrew = "\u05e9\u05dc\u05d5\u05dd";
    const said = `${hebrew} abc\n\nabc ${hebrew}\n\n- ${hebrew}\n\n  \`\`\`\n  let a\n  \`\`\``;
    await using server = await testServer(harmonyModel(speech(said)));
    await using visited = await visit(browser, server.url);
    const { page } = visited;
    await modelIs(page, "Test-Model.gguf");
    await askAndWait(page, hebrew);
    const ways = await page
      .locator("#turns :is(.bubble, .markdown p, .markdown ul, .markdown li, .markdown pre)")
      .evaluateAll((all) => all.map((one) => `${one.tagName} ${getComputedStyle(one).direction}`));
    expect(ways).toEqual(["DIV rtl", "P rtl", "P ltr", "UL rtl", "LI rtl", "PRE ltr"]);
    const edge = (await page.locator(".markdown li").boundingBox())!;
    const list = (await page.locator(".markdown ul").boundingBox())!;
    expect(list.x + list.width).toBeGreaterThan(edge.x + edge.width + 10);
  });

  test("markdown becomes elements; markup from the model or the person does not", async () => {
    const attack = [
      ...[
        "<script>window.hit = 1</script>",
        "<img src=x onerror='window.hit=2'>",
        "<svg onload=window.hit=3>",
      ],
      ...[
        "[a](javascript:window.hit=4)",
        "![b](javascript:window.hit=5)",
        "<iframe srcdoc='<script>parent.hit=6</script>'>",
      ],
      ...[
        "[c](data:text/html,<script>1</script>)",
        "<javascript:window.hit=7>",
        '[d](https://x.org/" onclick="window.hit=8)',
      ],
      ...[
        "```html\n</code></pre><script>window.hit=9</script>\n```",
        "| <b>e</b> | f |\n|---|---|\n| <style>*{display:none}</style> | g |",
      ],
    ].join("\n\n");
    await using server = await testServer(
      harmonyModel({ answers: [speech(`${everything}\n\n${attack}`, attack)], contextLength: 16384 }),
    );
    await using visited = await visit(browser, server.url);
    const { page, complaints } = visited;
    await modelIs(page, "Test-Model.gguf");
    await askAndWait(page, attack);
    const turns = page.locator("#turns");
    const has = (selector: string) => turns.locator(selector).count();
    for (const selector of [
      ".markdown h3",
      ".markdown strong",
      ".markdown ol > li",
      ".markdown blockquote",
      ".code code",
    ]) {
      expect([selector, (await has(selector)) > 0]).toEqual([selector, true]);
    }
    expect(await has("script, img, iframe, style, svg[onload], [onerror], [onclick], [style]")).toBe(0);
    const links = await turns
      .locator("a")
      .evaluateAll((all) => all.map((a) => [a.getAttribute("href"), a.getAttribute("rel")]));
    for (const [href, rel] of links) {
      expect(href).toMatch(/^https:\/\//);
      expect(rel).toBe("noopener noreferrer");
    }
    expect(await page.locator(".bubble").textContent()).toBe(attack);
    for (const link of await turns.locator(".thoughts summary").all()) await link.click();
    expect(await page.evaluate(() => (window as unknown as { hit?: number }).hit)).toBeUndefined();
    // also past the renderer nothing inline would run
    const refused = await page.evaluate(() => {
      try {
        document.body.innerHTML = "<img>";
        return "set";
      } catch (error) {
        return (error as Error).name;
      }
    });
    expect(refused).toBe("TypeError");
    // that refusal is all the browser complained about
    expect(complaints.filter((text) => !text.includes("TrustedHTML"))).toEqual([]);
  }, 60_000);

  test("a server with keys: the page asks for one, keeps it in the tab, and asks again when it is wrong", async () => {
    await using server = await testServer(scriptedModel("Hello."), {
      apiKeys: parseApiKeys("right-key-123"),
    });
    await using visited = await visit(browser, server.url);
    const { page, complaints } = visited;
    const dialog = page.locator("#key");
    await dialog.waitFor();
    expect(await page.textContent("#key-message")).toContain("An API key is required");
    await page.fill("#key-input", "wrong-key-123");
    await page.keyboard.press("Enter");
    await page.locator("#key-message", { hasText: "not valid" }).waitFor();
    await page.fill("#key-input", "right-key-123");
    await page.keyboard.press("Enter");
    await modelIs(page, "Test-Model.gguf");
    expect(await dialog.isVisible()).toBe(false);
    await askAndWait(page, "Hi");
    expect(await page.locator(".answer .markdown").textContent()).toBe("Hello.");
    expect(
      await page.evaluate(() => [
        JSON.stringify(sessionStorage).includes("right-key"),
        JSON.stringify(localStorage).includes("right-key"),
      ]),
    ).toEqual([true, false]);
    await page.reload();
    await modelIs(page, "Test-Model.gguf");
    expect(await dialog.isVisible()).toBe(false);
    await page.keyboard.press("Control+,");
    await page.click("#forget-key");
    await dialog.waitFor();
    expect(await page.evaluate(() => JSON.stringify(sessionStorage).includes("right-key"))).toBe(false);
    expect(complaints).toEqual([]);
  }, 60_000);

  test("on a phone nothing is wider than the screen, and text has contrast in both schemes", async () => {
    await using server = await testServer(
      harmonyModel({ answers: [speech(everything, "A thought.")], contextLength: 16384 }),
    );
    for (const [colorScheme, width] of [
      ["light", 360],
      ["dark", 360],
      ["dark", 1280],
    ] as const) {
      const touch = width === 360 ? { isMobile: true, hasTouch: true } : {};
      await using visited = await visit(browser, server.url, {
        colorScheme,
        viewport: { width, height: 740 },
        ...touch,
      });
      const { page, complaints } = visited;
      await modelIs(page, "Test-Model.gguf");
      const check = async (where: string) => {
        // a phone shows a wider page at once by making it smaller, so what it calls its width tells nothing
        const wide = await page.evaluate((limit) => {
          const panels = [...document.querySelectorAll("html, body, #log, .panel, dialog")];
          const wide = panels.filter((node) => node.scrollWidth > Math.min(limit, node.clientWidth || limit));
          const parts = [...document.querySelectorAll(".top *, .bubble, .markdown > *, .card, .composer")];
          const outside = parts.filter((node) => {
            const { left, right } = node.getBoundingClientRect();
            return left < 0 || right > limit;
          });
          return [...wide, ...outside].map((node) => node.id || node.className || node.tagName);
        }, width);
        expect([where, width, wide]).toEqual([where, width, []]);
        // the panels scroll; what stands apart in one must not lengthen the document behind them
        const below = await page.evaluate(() => document.documentElement.scrollHeight - innerHeight);
        expect([where, width, below]).toEqual([where, width, 0]);
        expect([where, colorScheme, await lowContrast(page)]).toEqual([where, colorScheme, []]);
      };
      await check("empty");
      await askAndWait(page, `A long word: ${"m".repeat(200)}`);
      await check("chat");
      await page.click("#tab-server");
      await page.locator(".log-frame tbody tr").first().waitFor();
      await check("server");
      await page.click("#tab-chat");
      await page.click("#open-settings");
      await check("settings");
      const ground = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
      expect(ground).toBe(colorScheme === "light" ? "rgb(247, 247, 245)" : "rgb(20, 21, 23)");
      expect(complaints).toEqual([]);
    }
  }, 60_000);

  test("everything can be done with the keyboard", async () => {
    await using server = await testServer(harmonyModel({ answers: [speech("Yes.")] }));
    await using visited = await visit(browser, server.url);
    const { page } = visited;
    await modelIs(page, "Test-Model.gguf");
    const focused = () =>
      page.evaluate(() => document.activeElement?.id || document.activeElement?.textContent?.trim() || "");
    expect(await focused()).toBe("message");
    await page.keyboard.type("Does it");
    await page.keyboard.press("Shift+Enter");
    await page.keyboard.type("work?");
    await page.keyboard.press("Enter");
    await page.locator(".answer[aria-busy=false]").waitFor();
    expect(await page.locator(".bubble").textContent()).toBe("Does it\nwork?");
    await page.focus("#skip");
    const order: string[] = [];
    for (let i = 0; i < 13; i++) {
      await page.keyboard.press("Tab");
      order.push(
        await page.evaluate(
          () =>
            document.activeElement?.id ||
            document.activeElement?.getAttribute("aria-label") ||
            document.activeElement?.tagName ||
            "",
        ),
      );
    }
    expect(order).toEqual([
      ...["tab-chat", "backend", "log", "Copy", "Edit and send again"],
      ...["SUMMARY", "Copy", "Answer again", "message", "open-settings", "clear"],
      // an empty message cannot be sent, so the button is passed over
      ...["BODY", "skip"],
    ]);
    await page.keyboard.press("Control+.");
    expect(await page.isVisible("#panel-server")).toBe(true);
    await page.focus("#tab-server");
    await page.keyboard.press("ArrowLeft");
    expect([
      await page.isVisible("#panel-chat"),
      await page.getAttribute("#tab-chat", "aria-selected"),
    ]).toEqual([true, "true"]);
    await page.keyboard.press("Control+/");
    expect(await focused()).toBe("message");
    await page.keyboard.press("Control+,");
    await page.locator("#settings").waitFor();
    await page.fill("#field-temperature", "hot");
    await page.keyboard.press("Enter");
    expect(await page.isVisible("#settings")).toBe(true);
    await page.keyboard.press("Escape");
    expect(await page.isVisible("#settings")).toBe(false);
    // what has no visible text has a name
    const nameless = await page.evaluate(() =>
      [...document.querySelectorAll<HTMLElement>("button, input, textarea, select, a, [role=img]")]
        .filter((node) => {
          const labels = (node as HTMLInputElement).labels?.length ?? 0;
          return !node.textContent?.trim() && !node.ariaLabel && labels === 0 && !node.matches(".chip");
        })
        .map((node) => node.outerHTML.slice(0, 80)),
    );
    expect(nameless).toEqual([]);
  }, 60_000);

  test("settings go with the request, tools are called and answered, and the model can be chosen", async () => {
    const scripted = harmonyModel({
      answers: [call("weather", '{"city":"Oslo"}')],
      later: [speech("Snow.")],
      contextLength: 4096,
    });
    await using server = await testServer(scripted);
    await using visited = await visit(browser, server.url);
    const { page, complaints } = visited;
    // two rows of the one model, under two of its names
    await page.route("**/v1/models", async (route) => {
      const response = await route.fetch();
      const list = (await response.json()) as { data: { id: string }[] };
      await route.fulfill({
        response,
        json: { ...list, data: [...list.data, { ...list.data[0], id: "Test-Model" }] },
      });
    });
    await page.reload();
    await page.selectOption("#model", "Test-Model");
    await page.click("#open-settings");
    await page.fill("#field-system", "Be brief.");
    await page.fill("#field-temperature", "0.5");
    await page.fill("#field-max_tokens", "300");
    await page.selectOption("#reasoning-effort", "high");
    await page.click("#settings summary:has-text('Tools')");
    await page.fill(
      "#field-tools",
      '[{"type":"function","function":{"name":"weather","parameters":{"type":"object"}}}]',
    );
    await page.click("#settings button[type=submit]");
    const sent = page.waitForRequest("**/v1/chat/completions");
    await askAndWait(page, "Weather?");
    expect(JSON.parse((await sent).postData() ?? "")).toMatchObject({
      ...{ model: "Test-Model", temperature: 0.5, max_tokens: 300, reasoning_effort: "high", stream: true },
      messages: [
        { role: "system", content: "Be brief." },
        { role: "user", content: "Weather?" },
      ],
    });
    expect(await page.locator(".call .name").textContent()).toBe("weather");
    expect(await page.locator(".call code").textContent()).toBe('{\n  "city": "Oslo"\n}');
    await page.fill(".results textarea", "-3 degrees");
    await page.click("text=Send results");
    await page.locator(".answer .markdown", { hasText: "Snow." }).waitFor();
    expect(scripted.engine.requests.at(-1)?.sampling.temperature).toBe(0.5);
    expect(complaints).toEqual([]);
  }, 60_000);

  test("errors are shown in the server's words: refused, broken off, loading, gone", async () => {
    const later = Promise.withResolvers<ServedModel>();
    const error = unexpected("native_failed", "step", "a status of 0", "3");
    await using server = await testServer(later.promise);
    await using visited = await visit(browser, server.url);
    const { page } = visited;
    await modelIs(page, "Loading the model…");
    await page.fill("#message", "Hi");
    expect(await page.isDisabled("#send")).toBe(true);
    later.resolve(
      harmonyModel({
        answers: [speech("Half of it and more")],
        failAt: { token: 40, error },
        contextLength: 2048,
      }),
    );
    await modelIs(page, "Test-Model.gguf");
    await askAndWait(page, "Hi");
    const answer = page.locator(".answer").first();
    expect(await answer.locator(".trouble").textContent()).toContain("The server failed on this request");
    await page.click("#open-settings");
    await page.fill("#field-max_tokens", "5000");
    await page.click("#settings button[type=submit]");
    await page.click("text=Try again");
    await page.locator(".trouble", { hasText: "context_length_exceeded" }).waitFor();
    await server.stop({ force: true });
    await page.locator("#notice", { hasText: "cannot be reached" }).waitFor();
    await page.click("text=Try again");
    await page.locator(".trouble", { hasText: "cannot be reached" }).waitFor();
  }, 60_000);
});
