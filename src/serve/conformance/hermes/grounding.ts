/** The numbers that an answer states, and those among them that no tool returned. */
export type Grounding = {
  readonly pass: boolean;
  readonly stated: readonly number[];
  readonly returned: readonly number[];
  readonly ungrounded: readonly number[];
};

/** `1,234.5`, `18,5`, `18` and `−3`, also where letters follow. */
const written = /\d+(?:[.,]\d+)*/g;

/**
 * Numbers written in digits, without their signs: "3 degrees below zero" and "-3" state the same one. A comma before three
 * digits separates thousands, another one is a decimal point.
 */
export function numbersIn(text: string): number[] {
  return [...text.normalize("NFKC").matchAll(written)].flatMap(([digits]) => {
    const thousands = /^\d{1,3}(?:,\d{3})+(?:\.\d+)?$/.test(digits);
    const number = Number(thousands ? digits.replaceAll(",", "") : digits.replace(",", "."));
    // a date or a version is several numbers
    return Number.isNaN(number) ? digits.split(/[.,]/).map(Number) : [number];
  });
}

/** An answer may only state numbers that a tool returned. */
export function grounding(answer: string, results: readonly string[]): Grounding {
  const returned = [...new Set(results.flatMap(numbersIn))];
  const stated = [...new Set(numbersIn(answer))];
  const ungrounded = stated.filter((number) => !returned.includes(number));
  return { pass: ungrounded.length === 0, stated, returned, ungrounded };
}
