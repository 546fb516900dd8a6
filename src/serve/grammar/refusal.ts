import { type PsionicError, unexpected } from "../../core/error.ts";

/** A grammar, schema or pattern that is not served; `keyword` names what it fails on, `path` where that stands. */
export function refused(
  what: string,
  expected: string,
  got: string,
  facts: { readonly keyword?: string; readonly path?: string; readonly fix?: string } = {},
): PsionicError {
  const { keyword, fix } = facts;
  const path = shownPath(facts.path ?? "");
  const where = path === "" ? what : `${what} at ${path}`;
  return unexpected("unsupported", where, expected, got, {
    ...(fix === undefined ? {} : { fix }),
    details: { grammar: true, ...(keyword === undefined ? {} : { keyword }), ...(path ? { path } : {}) },
  });
}

/** A keyword of a schema or pattern that is understood by nobody here. */
export function unsupportedKeyword(what: string, keyword: string, path: string, fix?: string): PsionicError {
  return refused(what, "keywords that are supported", shown(keyword), {
    keyword,
    path,
    fix: fix ?? "Leave it out",
  });
}

/** A path that was put together from parts with a dot before each. */
export function shownPath(path: string): string {
  return path.replace(/^\.+/, "");
}

/** Text from outside, short and printable. */
export function shown(text: string): string {
  const plain = text.replace(/[^\x20-\x7e]/g, "?");
  return plain.length > 60 ? `${plain.slice(0, 57)}...` : plain;
}
