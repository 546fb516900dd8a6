/** Text in Unicode NFC; what lies below U+0300 already is. */
export function toNfc(text: string): string {
  return /[\u0300-\uffff]/.test(text) ? text.normalize("NFC") : text;
}
