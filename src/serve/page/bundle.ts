import { createHash } from "node:crypto";
import { join } from "node:path";

/** One document with its script and style inside, and the headers that belong to it. */
export type Page = {
  readonly html: string;
  readonly etag: string;
  /** Content-Security-Policy: this script, this style and requests to this server; nothing else runs or loads. */
  readonly policy: string;
};

/** Bundles the script, then puts script and style into index.html. */
export async function bundlePage(folder: string = import.meta.dir): Promise<Page> {
  const result = await Bun.build({
    entrypoints: [join(folder, "client", "main.ts"), join(folder, "style.css")],
    target: "browser",
    format: "iife",
    minify: true,
  });
  const output = async (ending: string): Promise<string> => {
    const file = result.outputs.find(({ path }) => path.endsWith(ending));
    if (file === undefined) throw new Error(`[page] expected a bundle of ${ending}, got none`);
    return (await file.text()).trim();
  };
  const script = await output(".js");
  const style = await output(".css");
  // what would end the element early
  if (/<\/script|<!--/i.test(script) || /<\/style/i.test(style)) {
    throw new Error("[page] expected a script and a style without closing tags in them");
  }
  const template = await Bun.file(join(folder, "index.html")).text();
  const html = template
    .replace("<style></style>", () => `<style>${style}</style>`)
    .replace("<script></script>", () => `<script>${script}</script>`);
  const policy = [
    "default-src 'none'",
    `script-src '${sourceHash(script)}'`,
    `style-src '${sourceHash(style)}'`,
    "connect-src 'self'",
    "img-src data:",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
    "require-trusted-types-for 'script'",
    "trusted-types 'none'",
  ].join("; ");
  const etag = `"${createHash("sha256").update(html).digest("base64url").slice(0, 22)}"`;
  return { html, etag, policy };
}

function sourceHash(text: string): string {
  return `sha256-${createHash("sha256").update(text).digest("base64")}`;
}
