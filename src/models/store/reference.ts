import { basename } from "node:path";
import { unexpected } from "../../core/error.ts";

/** What a user asks for: a repository of a hub, with a file or a quantisation of it, or a file at an address. */
export type Reference =
  | {
      readonly kind: "hub";
      /** `organisation/name` */
      readonly repository: string;
      /** A file's name or a quantisation; absent: the repository decides. */
      readonly choice?: string;
      readonly revision?: string;
    }
  | { readonly kind: "url"; readonly url: URL };

const repositoryPattern = /^[A-Za-z0-9][A-Za-z0-9._-]{0,95}\/[A-Za-z0-9][A-Za-z0-9._-]{0,95}$/;
const hubHosts = ["hf.co", "huggingface.co", "www.huggingface.co"];

/** Reads `org/repo`, `org/repo:choice`, `hf.co/...`, a page or file of the hub, or another http(s) address. */
export function parseReference(text: string): Reference {
  const bare = text.trim();
  const address = /^https?:\/\//i.test(bare) ? URL.parse(bare) : undefined;
  if (address === null) throw wrong(text);
  if (address && !hubHosts.includes(address.hostname)) return urlReference(address);
  const path = address ? address.pathname.slice(1) : bare.replace(/^(hf\.co|(www\.)?huggingface\.co)\//, "");
  const page = /^([^/]+\/[^/:]+)\/(?:resolve|blob|tree)\/([^/]+)(?:\/(.+))?$/.exec(path);
  if (page?.[1] && repositoryPattern.test(page[1])) {
    return hubReference(
      page[1],
      page[3] && decodeURIComponent(page[3]),
      decodeURIComponent(page[2] ?? "main"),
    );
  }
  const named = /^([^:@]+)(?:@([^:]+))?(?::(.+))?$/.exec(path.replace(/\/$/, ""));
  if (!named?.[1] || !repositoryPattern.test(named[1])) throw wrong(text);
  return hubReference(named[1], named[3], named[2]);
}

function hubReference(
  repository: string,
  choice: string | undefined,
  revision: string | undefined,
): Reference {
  if (choice !== undefined) checkPath(choice);
  if (revision !== undefined && (!/^[A-Za-z0-9._/-]{1,128}$/.test(revision) || revision.includes(".."))) {
    throw unexpected("invalid_argument", "pull", "a branch, tag or commit", JSON.stringify(revision));
  }
  return {
    ...{ kind: "hub", repository },
    ...(choice ? { choice } : {}),
    ...(revision && revision !== "main" ? { revision } : {}),
  };
}

function urlReference(url: URL): Reference {
  if (url.username || url.password) {
    throw unexpected("invalid_argument", "pull", "an address without a name and password", url.host);
  }
  fileNameOf(url);
  return { kind: "url", url };
}

/** The file name an address ends in; throws where it has none that could be a model's. */
export function fileNameOf(url: URL): string {
  let name: string;
  try {
    name = basename(decodeURIComponent(url.pathname));
  } catch (cause) {
    throw unexpected("invalid_argument", "pull", "an address that decodes", url.href, { cause });
  }
  if (!/[^.].*\.gguf$/.test(name)) {
    throw unexpected("invalid_argument", "pull", "an address that ends in .gguf", url.href, {
      fix: "A checkpoint is pulled from a hub: org/repo",
    });
  }
  checkPath(name);
  return name;
}

/** Refuses paths of a remote host that would leave the folder they are meant for, or that no system would take. */
export function checkPath(path: string): void {
  const parts = path.split("/");
  const bad = parts.some((part) => part === "" || part === "." || part === ".." || part.length > 200);
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is refused
  if (bad || path.length > 400 || /[\u0000-\u001f\u007f\\:*?"<>|]/.test(path)) {
    throw unexpected("invalid_argument", "pull", "a file name", JSON.stringify(path.slice(0, 80)));
  }
}

function wrong(text: string): Error {
  return unexpected(
    "invalid_argument",
    "pull",
    "org/repo, org/repo:file-or-quantisation, or an address",
    text,
  );
}
