/** Settings of a lane profile: names and values as text, each read once, none left unread. */
import { refuse } from "../contract.ts";

type Setting = { name: string; value: string };

export const settingsOf = (values: Readonly<Record<string, string | number | boolean>>): Setting[] =>
  Object.entries(values).map(([name, value]) => ({ name, value: String(value) }));

/** Reads settings by name; what makes no sense is `bad_config`. */
export class SettingsReader {
  readonly #where: string;
  readonly #left: Map<string, string>;

  constructor(where: string, settings: readonly Setting[]) {
    this.#where = where;
    this.#left = new Map(settings.map(({ name, value }) => [name, value]));
    if (this.#left.size !== settings.length)
      refuse("bad_config", `lane profile ${where}: expected each setting once, got one twice`);
  }

  #take(name: string): string | undefined {
    const found = this.#left.get(name);
    this.#left.delete(name);
    return found;
  }

  /** Throws `bad_config` for a value that is not what it is said to be. */
  wrong(name: string, expected: string, got: string): never {
    return refuse(
      "bad_config",
      `lane profile ${this.#where}.${name}: expected ${expected}, got ${JSON.stringify(got.slice(0, 60))}`,
    );
  }

  number(name: string, otherwise: number | undefined, least: number, most: number): number {
    const text = this.#take(name);
    if (text === undefined) {
      if (otherwise !== undefined) return otherwise;
      return this.wrong(name, "a number", "nothing");
    }
    const value = /^-?\d+(\.\d+)?(e-?\d+)?$/.test(text) ? Number(text) : Number.NaN;
    if (!(value >= least && value <= most)) this.wrong(name, `a number from ${least} to ${most}`, text);
    return value;
  }

  whole(name: string, otherwise: number | undefined, least: number, most: number): number {
    const value = this.number(name, otherwise, least, most);
    if (!Number.isSafeInteger(value)) this.wrong(name, "a whole number", String(value));
    return value;
  }

  choice<const T extends readonly string[]>(name: string, values: T, otherwise: T[number]): T[number] {
    const text = this.#take(name);
    if (text === undefined) return otherwise;
    return values.find((value) => value === text) ?? this.wrong(name, values.join(" or "), text);
  }

  flag(name: string, otherwise: boolean): boolean {
    return this.choice(name, ["true", "false"], otherwise ? "true" : "false") === "true";
  }

  text(name: string): string | undefined {
    return this.#take(name);
  }

  /** Throws where a setting was given that nothing reads. */
  done(): void {
    const [unread] = this.#left.keys();
    if (unread !== undefined)
      refuse("bad_config", `lane profile ${this.#where}: no setting ${JSON.stringify(unread.slice(0, 60))}`);
  }
}
