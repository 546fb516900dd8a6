import { expect, test } from "bun:test";
import { parseWithIds } from "./json_ids.ts";

const utf8 = new TextEncoder();
const read = (text: string) => parseWithIds(utf8.encode(text), "prompt");
const ids = Array.from({ length: 1500 }, (_, i) => (i * 7919) % (i % 3 === 0 ? 10 : 200_000));
const list = JSON.stringify(ids);

test("a long list of ids comes as numbers of 32 bits, whatever stands around it", () => {
  for (const text of [
    `{"prompt":${list}}`,
    `{"a":[1],"stop":["x"],"prompt":${list},"n":1,"s":"\\u00e9 [1,2] \\"prompt\\":"}`,
    `{"prompt":"first","prompt":${list}}`,
    JSON.stringify({ model: "m", prompt: ids, b: { c: [[]] } }, null, 1),
    `{"prompt":[0,999999999,${list.slice(1)}}`,
  ]) {
    const value = read(text) as { prompt: Int32Array };
    expect(value.prompt).toBeInstanceOf(Int32Array);
    expect({ ...value, prompt: [...value.prompt] }).toEqual(JSON.parse(text));
  }
  const [one, other] = [read(`{"prompt":${list}}`), read(`{"prompt":[7,${list.slice(1)}}`)];
  expect((one as { prompt: Int32Array }).prompt[0]).toBe(ids[0]!);
  expect((other as { prompt: Int32Array }).prompt[0]).toBe(7);
});

test("everything else is left to the general parser", () => {
  const inner = list.slice(1, -1);
  for (const wrong of [
    "01",
    "-1",
    "1.0",
    "1e3",
    "1000000000",
    "1 2",
    "",
    "null",
    '"1"',
    "[1]",
    "{}",
    "１",
    "\u00a01",
  ])
    for (const text of [`[${wrong},${inner}]`, `[${inner},${wrong}]`, `[${inner},${wrong},${inner}]`])
      expect([wrong, read(`{"prompt":${text}}`)]).toEqual([wrong, undefined]);
  for (const text of [
    `{"other":${list}}`,
    `{"a":{"prompt":${list}}}`,
    `{"prompt":[${list}]}`,
    `{"prompt":${list},"prompt":"last"}`,
    `{"text":"\\"prompt\\":${list}"}`,
    `{"__proto__":{"prompt":${list}}}`,
    `{"prompt":${list},"é":1}`,
    ...[`{"prompt":${list}`, `{"prompt":${list}}}`, `{"prompt" ${list}}`, `"prompt":${list}`, list],
    ...['{"prompt":[1,2]}', "", "null", "{}", `{"prompt":${list.slice(0, -1)}`],
  ])
    expect([text.slice(0, 30), read(text)]).toEqual([text.slice(0, 30), undefined]);
});
