import { type Browser, type BrowserContextOptions, chromium, type Page } from "playwright-core";

const names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];

/** The browser that tests drive: PSIONIC_CHROMIUM, or a Chromium on PATH. Undefined where there is none. */
export const browserPath: string | undefined =
  Bun.env.PSIONIC_CHROMIUM ?? names.map((name) => Bun.which(name)).find((path) => path !== null) ?? undefined;

export function openBrowser(): Promise<Browser> {
  const root = process.getuid?.() === 0;
  return chromium.launch({
    ...(browserPath === undefined ? {} : { executablePath: browserPath }),
    // Chromium's sandbox refuses to run as root
    args: root ? ["--no-sandbox"] : [],
  });
}

export type Visit = {
  readonly page: Page;
  /** What the browser complained about: errors of scripts, refused by the policy, dialogs. */
  readonly complaints: string[];
} & AsyncDisposable;

/** Opens the page in a context of its own. */
export async function visit(
  browser: Browser,
  url: string,
  options: BrowserContextOptions = {},
): Promise<Visit> {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(10_000);
  const complaints: string[] = [];
  page.on("pageerror", (error) => complaints.push(String(error)));
  page.on("console", (message) => {
    // that a request was refused is what some tests are about
    if (message.type() === "error" && !message.text().startsWith("Failed to load resource")) {
      complaints.push(message.text());
    }
  });
  page.on("dialog", (dialog) => {
    complaints.push(`dialog: ${dialog.message()}`);
    void dialog.dismiss();
  });
  await page.goto(url);
  return { page, complaints, [Symbol.asyncDispose]: () => context.close() };
}

/** Waits until a model is there to ask. */
export async function modelIs(page: Page, name: string): Promise<void> {
  await page.locator("#model-name", { hasText: name }).waitFor();
}

export async function ask(page: Page, text: string): Promise<void> {
  await page.fill("#message", text);
  await page.press("#message", "Enter");
}

/** Asks and waits until the answer is complete, failed or stopped. */
export async function askAndWait(page: Page, text: string): Promise<void> {
  const before = await page.locator(".answer[aria-busy=false]").count();
  await ask(page, text);
  await page.locator(".answer[aria-busy=false]").nth(before).waitFor();
}

/** Texts whose contrast with what lies behind them is below WCAG's 4.5 (3 for large ones), as `text: ratio`. */
export function lowContrast(page: Page): Promise<string[]> {
  return page.evaluate(() => {
    type Colour = readonly [number, number, number, number];
    const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true })!;
    const rgba = (css: string): Colour => {
      canvas.clearRect(0, 0, 1, 1);
      canvas.fillStyle = css;
      canvas.fillRect(0, 0, 1, 1);
      const [r = 0, g = 0, b = 0, a = 0] = canvas.getImageData(0, 0, 1, 1).data;
      return [r, g, b, a / 255];
    };
    const luminance = ([r, g, b]: Colour): number => {
      const [x, y, z] = [r, g, b].map((c) =>
        c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4,
      );
      return 0.2126 * x! + 0.7152 * y! + 0.0722 * z!;
    };
    const behind = (node: Element | null): Colour => {
      if (node === null) return [255, 255, 255, 1];
      const colour = rgba(getComputedStyle(node).backgroundColor);
      return colour[3] > 0.99 ? colour : behind(node.parentElement);
    };
    const low: string[] = [];
    for (const node of document.body.querySelectorAll("*")) {
      const text = [...node.childNodes]
        .filter((child) => child.nodeType === Node.TEXT_NODE)
        .map((child) => child.textContent?.trim())
        .join("");
      const style = getComputedStyle(node);
      if (
        text === "" ||
        !(node as HTMLElement).checkVisibility({ opacityProperty: true }) ||
        node.matches("script, style, :disabled, option")
      )
        continue;
      const [light, dark] = [luminance(rgba(style.color)), luminance(behind(node))].sort((a, b) => b - a) as [
        number,
        number,
      ];
      const ratio = (light + 0.05) / (dark + 0.05);
      const large = Number.parseFloat(style.fontSize) >= 24;
      if (ratio < (large ? 3 : 4.5)) low.push(`${text.slice(0, 40)}: ${ratio.toFixed(2)}`);
    }
    return low;
  });
}
