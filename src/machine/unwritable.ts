/** What the file system refused, by its own codes: a place that can be none, or one that is not to be written now. */
import { type RefusalClass, refuse } from "./contract.ts";

/** No supervisor's waiting makes a folder of these. */
const never: ReadonlySet<string> = new Set([
  "EEXIST",
  "ENOTDIR",
  "ENOENT",
  "ENAMETOOLONG",
  "ELOOP",
  "EINVAL",
]);
/** Full, protected, or short of something: to be tried again once that is mended. */
const notNow: ReadonlySet<string> = new Set(
  ["ENOSPC", "EDQUOT", "EROFS", "EACCES", "EPERM", "EIO", "EBUSY", "EMFILE", "ENFILE", "EFBIG"].concat(
    "ENOMEM",
  ),
);

/** The system's code of an error, or of what it came from. */
function codeOf(cause: unknown): string | undefined {
  for (let error = cause; error instanceof Error; error = error.cause) {
    const { code } = error as NodeJS.ErrnoException;
    if (code !== undefined && (never.has(code) || notNow.has(code) || code === "disk_full")) return code;
  }
  return undefined;
}

/** `artifact_incomplete` for what a later try may be able to write; undefined for any other error. */
export function failedWrite(cause: unknown): RefusalClass | undefined {
  const code = codeOf(cause);
  return code === "disk_full" || (code !== undefined && notNow.has(code)) ? "artifact_incomplete" : undefined;
}

/** Ends an invocation whose run root cannot be made or taken; any other error goes on as it is. */
export function refuseRoot(root: string, cause: unknown): never {
  const code = codeOf(cause);
  if (code === undefined) throw cause;
  const got = code === "disk_full" ? "a full disk" : code;
  return refuse(
    failedWrite(cause) ?? "bad_config",
    `[${root}] expected a folder that can be made and written to, got ${got}`,
    cause,
  );
}
