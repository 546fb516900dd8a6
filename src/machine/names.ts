/** Names and paths from strangers: none may lead out of the folder that it is meant for. */
import { refuse } from "./contract.ts";
import { isBlank } from "./fields.ts";

const longestName = 128;
const longestPath = 2048;
const controls = /\p{Cc}/u;

/** Throws where an id cannot be the name of a folder. */
export function checkFolderName(name: string, field: string): void {
  const bytes = Buffer.byteLength(name);
  const wrong =
    isBlank(name) ||
    name === "." ||
    name === ".." ||
    /[/\\:]/.test(name) ||
    controls.test(name) ||
    bytes > longestName;
  if (!wrong) return;
  const shown = JSON.stringify(name.slice(0, 60));
  refuse(
    "bad_config",
    `${field} names a folder: at most ${longestName} bytes, no separators, got ${shown} of ${bytes} bytes`,
  );
}

/** Throws where a root of the manifest cannot be a path at all. */
export function checkRootPath(path: string, field: string): void {
  if (!controls.test(path) && Buffer.byteLength(path) <= longestPath) return;
  refuse("bad_config", `${field} must be a path of at most ${longestPath} bytes without control characters`);
}

/** Whether a path of a document stays below the folder that it is relative to. */
export function staysInside(path: string): boolean {
  if (isBlank(path) || path.startsWith("/") || path.includes("\\") || controls.test(path)) return false;
  return (
    Buffer.byteLength(path) <= longestPath && path.split("/").every((part) => part !== ".." && part !== "")
  );
}

/** Lower-case ASCII letters and digits; everything else becomes `_`. */
export function slug(text: string): string {
  return [...text].map((c) => (/^[A-Za-z0-9]$/.test(c) ? c.toLowerCase() : "_")).join("");
}

/** Name under which a resolver leaves an artifact in `artifacts/resolved/`. */
export function resolvedKey(artifactId: string): string {
  const key = slug(artifactId).replace(/_+/g, "_").replace(/^_|_$/g, "");
  return key === "" ? "artifact" : key;
}
