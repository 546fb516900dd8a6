import type { Page } from "./bundle.ts";

let made: Promise<Page> | undefined;

/** The page. From source it is bundled when it is first asked for; build.ts puts the finished one in this module's place. */
export function bundledPage(): Promise<Page> {
  made ??= import("./bundle.ts").then(({ bundlePage }) => bundlePage());
  return made;
}
