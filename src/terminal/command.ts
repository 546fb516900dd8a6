import type { ArgsDef, CommandContext } from "citty";
import { PsionicError } from "../core/error.ts";

/** A subcommand as a value: help, completions and the strict reading of arguments all come from it. */
export type Command<T extends ArgsDef = ArgsDef> = {
  readonly meta: { readonly name: string; readonly description: string };
  readonly args: T;
  /** Whole command lines, shown by `--help`. */
  readonly examples: readonly string[];
  readonly run: (context: CommandContext<T>) => Promise<void> | void;
};

/** Types a command's `run` from its `args`. */
export function command<const T extends ArgsDef>(definition: Command<T>): AnyCommand {
  // citty hands `run` what it read by `args`, so the pair fits wherever the table passes it on.
  return definition as unknown as AnyCommand;
}

/** A command of any arguments, as tables hold it. */
export type AnyCommand = Command;

/** The command line itself is wrong: exit code 2. */
export class UsageError extends PsionicError {
  constructor(message: string, details: Record<string, unknown> = {}) {
    super("invalid_argument", message, details);
    this.name = "UsageError";
  }
}

/** A failure with an exit code of its own, which the command's documentation lists. */
export class ExitError extends PsionicError {
  readonly exitCode: number;

  constructor(exitCode: number, failure: PsionicError) {
    super(failure.code, failure.message, { ...failure.details }, failure);
    this.exitCode = exitCode;
  }
}

/** A whole number of an option; undefined when it was not given. */
export function wholeNumber(
  value: string | undefined,
  option: string,
  least: number,
  most: number = Number.MAX_SAFE_INTEGER,
): number | undefined {
  if (value === undefined) return undefined;
  const n = /^-?\d+$/.test(value.trim()) ? Number(value) : Number.NaN;
  if (Number.isSafeInteger(n) && n >= least && n <= most) return n;
  const range = most === Number.MAX_SAFE_INTEGER ? `of at least ${least}` : `from ${least} to ${most}`;
  throw new UsageError(`${option} takes a whole number ${range}, got ${value || "nothing"}`);
}

/** A number of an option; undefined when it was not given. */
export function decimalNumber(
  value: string | undefined,
  option: string,
  least: number,
  most: number,
): number | undefined {
  if (value === undefined) return undefined;
  const n = value.trim() === "" ? Number.NaN : Number(value);
  if (n >= least && n <= most) return n;
  throw new UsageError(`${option} takes a number from ${least} to ${most}, got ${value || "nothing"}`);
}

/** Comma-separated whole numbers of an option. */
export function wholeNumbers(value: string, option: string, least: number, most?: number): number[] {
  return value.split(",").map((part) => wholeNumber(part, option, least, most)!);
}

/** Comma-separated words of an option. */
export function words(value: string | undefined): string[] | undefined {
  const list = value
    ?.split(",")
    .map((word) => word.trim())
    .filter((word) => word !== "");
  return list && list.length > 0 ? list : undefined;
}

/** A list as citty's types want it inside a constant: not read-only, yet of literals. */
export function list<const T extends readonly string[]>(...values: T): T[number][] {
  return [...values];
}
