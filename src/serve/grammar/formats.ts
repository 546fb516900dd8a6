/** Formats of strings that a grammar can hold to, as patterns for the whole text. */

const day =
  "(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\\d|30)|02-(?:0[1-9]|1\\d|2[0-8]))";
const date = `[1-9]\\d{3}-${day}`;
const zone = "(?:Z|[+-](?:0\\d|1\\d|2[0-3]):[0-5]\\d)";
const time = `(?:[01]\\d|2[0-3]):[0-5]\\d:[0-5]\\d(?:\\.\\d{1,6})?${zone}`;
const octet = "(?:25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)";
// one way to read each of them, so that a text is followed in one reading
const label = "[a-zA-Z0-9]+(?:-[a-zA-Z0-9]+)*";
const domain = `${label}(?:\\.${label})*`;
const shortLabel = "[a-zA-Z0-9]{1,20}(?:-[a-zA-Z0-9]{1,20}){0,2}";
const hex = "[0-9a-fA-F]";

export const formats: ReadonlyMap<string, string> = new Map([
  ["date", date],
  ["time", time],
  ["date-time", `${date}T${time}`],
  [
    "duration",
    "P(?:\\d{1,9}W|\\d{1,9}D(?:T\\d{1,9}[HMS])?|\\d{1,9}Y(?:\\d{1,9}M)?(?:\\d{1,9}D)?|T\\d{1,9}[HMS])",
  ],
  ["email", `[a-zA-Z0-9_+]+(?:[.-][a-zA-Z0-9_+]+)*@${label}(?:\\.${label})+`],
  ["hostname", `${shortLabel}(?:\\.${shortLabel}){0,3}`],
  ["ipv4", `${octet}(?:\\.${octet}){3}`],
  ["ipv6", `(?:${hex}{1,4}:){7}${hex}{1,4}`],
  ["uuid", `${hex}{8}-${hex}{4}-${hex}{4}-${hex}{4}-${hex}{12}`],
  ["uri", `https?://${domain}(?::[1-9]\\d{0,3})?(?:/[a-zA-Z0-9._~-]+)*/?`],
]);
