import { unexpected } from "../core/error.ts";

const MAX_LAYERS = 4096;

/**
 * Hyper-parameters of a model file, read with checks: GGUF metadata and `config.json` look alike from here. A missing
 * key without a default, or a value of another type, is `file_malformed` naming the key.
 */
export class Settings {
  readonly #read: (key: string) => unknown;
  readonly where: string;

  constructor(where: string, read: (key: string) => unknown) {
    this.where = where;
    this.#read = read;
  }

  has(key: string): boolean {
    const value = this.#read(key);
    return value !== undefined && value !== null;
  }

  /** Whether the key is there, even as null. */
  states(key: string): boolean {
    return this.#read(key) !== undefined;
  }

  /**
   * Refuses settings that would change the answer and are not computed here: `neutral` gives, for each key, the values
   * that change nothing. Absent and null are always neutral.
   */
  refuse(neutral: Readonly<Record<string, readonly unknown[]>>): void {
    for (const [key, values] of Object.entries(neutral)) {
      const value = this.#read(key);
      if (value === undefined || value === null || values.includes(value)) continue;
      const wanted = values.length === 0 ? "absent" : values.join(" or ");
      throw unexpected("unsupported", this.where, `${key} to be ${wanted}`, describe(value), {
        details: { key },
      });
    }
  }

  /** Integer from 0 up to 2^31. */
  count(key: string, fallback?: number): number {
    const value = this.number(key, fallback);
    if (!(Number.isInteger(value) && value >= 0 && value < 2 ** 31)) {
      throw unexpected("file_malformed", this.where, `a count for ${key}`, value);
    }
    return value;
  }

  /** How many layers there are: at least one, and few enough to make a list of them. */
  layers(key: string): number {
    const value = this.count(key);
    if (value >= 1 && value <= MAX_LAYERS) return value;
    throw unexpected("file_malformed", this.where, `1 to ${MAX_LAYERS} layers in ${key}`, value);
  }

  number(key: string, fallback?: number): number {
    let value = this.#read(key);
    if (Array.isArray(value) && value.length === 1) value = value[0];
    if (value === undefined || value === null) value = fallback;
    if (typeof value === "bigint") value = Number(value);
    if (typeof value !== "number" || !Number.isFinite(value)) {
      throw unexpected("file_malformed", this.where, `a number for ${key}`, describe(value));
    }
    return value;
  }

  string(key: string, fallback?: string): string {
    const value = this.#read(key) ?? fallback;
    if (typeof value !== "string")
      throw unexpected("file_malformed", this.where, `text for ${key}`, describe(value));
    return value;
  }

  boolean(key: string, fallback: boolean): boolean {
    const value = this.#read(key) ?? fallback;
    if (typeof value !== "boolean")
      throw unexpected("file_malformed", this.where, `true or false for ${key}`, describe(value));
    return value;
  }

  /** One count per layer: a list of at least `layers` values, or a scalar for all. */
  perLayer(key: string, layers: number, fallback?: number): readonly number[] {
    const value = this.#read(key);
    if (Array.isArray(value) && value.length > 1) {
      const numbers = value.map(Number);
      if (numbers.length < layers || !numbers.every((n) => Number.isInteger(n) && n >= 0 && n < 2 ** 31)) {
        throw unexpected(
          "file_malformed",
          this.where,
          `${layers} counts for ${key}`,
          `${value.length} values from ${String(value[0]).slice(0, 20)}`,
        );
      }
      return numbers.slice(0, layers);
    }
    return new Array<number>(layers).fill(this.count(key, fallback));
  }

  list(key: string): readonly unknown[] | undefined {
    const value = this.#read(key);
    return Array.isArray(value) ? value : undefined;
  }

  /** A nested object of `config.json`. */
  section(key: string): Settings | undefined {
    const value = this.#read(key);
    if (typeof value !== "object" || value === null || Array.isArray(value)) return undefined;
    const entries = value as Record<string, unknown>;
    return new Settings(`${this.where} ${key}`, (name) =>
      Object.hasOwn(entries, name) ? entries[name] : undefined,
    );
  }
}

function describe(value: unknown): string {
  if (value === undefined) return "nothing";
  return typeof value === "object"
    ? JSON.stringify(value)?.slice(0, 80)
    : `${typeof value} ${String(value).slice(0, 80)}`;
}
