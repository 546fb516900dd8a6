/** Text in Unicode NFC; what lies below U+0300 already is. */
export function toNfc(text: string): string {
  return /[\u0300-\uffff]/.test(text) ? normalForm(text, "NFC") : text;
}

/**
 * The most marks in a row that are put in order, as Unicode's stream-safe format has it (UAX 15, 13): engines take time by
 * the square of a row, a second for 30,000 of them. What stands behind them stays as it is.
 */
const MOST_MARKS = 30;
const longRows = /\p{M}{31,}/gu;

/** Text in a normal form, in time by its length. */
export function normalForm(text: string, form: "NFC" | "NFD" | "NFKC" | "NFKD"): string {
  let out = "";
  let from = 0;
  for (const { 0: row, index } of text.matchAll(longRows)) {
    let head = 0;
    for (let i = 0; i < MOST_MARKS; i++) head += row.codePointAt(head)! > 0xffff ? 2 : 1;
    out += text.slice(from, index + head).normalize(form) + row.slice(head);
    from = index + row.length;
  }
  return from === 0 ? text.normalize(form) : out + text.slice(from).normalize(form);
}
