import { expect, test } from "bun:test";
import { PsionicError } from "../../core/error.ts";
import { compileTemplate } from "./jinja.ts";
import { templateLimits } from "./jinja_limits.ts";

/** As in use, but for the time, which the worst templates take to the full. */
const limits = { ...templateLimits(1000), milliseconds: 250 };

function render(source: string, variables: Record<string, unknown> = {}): string {
  return compileTemplate(source, (text) => text).render(variables, limits);
}

function errorOf(act: () => unknown): PsionicError {
  try {
    act();
  } catch (error) {
    if (error instanceof PsionicError) return error;
    throw error;
  }
  throw new Error("nothing was thrown");
}

test.each([
  ["{% for m in messages %}\n{{ m.role }}\n{% endfor %}", "user\nassistant\n"],
  ["  {% if true %}\nx\n  {% endif %}\n", "x\n"],
  ["{{ {'b': 1, 'a': [true, none, 'ü<&>']} | tojson }}", '{"b": 1, "a": [true, null, "ü<&>"]}'],
  ["{{ true | string }} {{ false }} {{ 'x' | string }} {{ 3 | string }}", "True False x 3"],
  [
    "{{ none | string }}|{{ missing | upper }}|{{ ['a', none, 1, true, ['b']] | upper }}",
    "None||['A', NONE, 1, TRUE, ['B']]",
  ],
  ["{{ {'a': 'b'}['c'] | upper }}|{{ ' x ' | trim | upper }}|{{ true | lower }}|{{ 7 | trim }}", "|X|true|7"],
  [
    "{% macro f(a, b='d') %}{{ a }}{{ b }}{% if a > 0 %}{{ f(a - 1) }}{% endif %}{% endmacro %}{{ f(2, 'x') }}",
    "2x1d0d",
  ],
  [
    "{% set ns = namespace(n=0) %}{% for i in range(3) %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}",
    "3",
  ],
  ["{% set x %}a{{ 1 }}{% endset %}{{ x }}", "a1"],
  ["{{ messages[::-1][0].role }} {{ messages[1:] | length }} {{ 'abc'[:2] }}", "assistant 1 ab"],
  ["{{ 'a,b'.split(',') | join('-') }} {{ ' x ' | trim }} {{ 'aXa'.replace('a', 'b') }}", "a-b x bXb"],
  [
    "{{ messages[0].get('none', 'd') }} {{ 'content' in messages[0] }} {{ messages is iterable }}",
    "d True True",
  ],
  [
    "{{ '\\n a\\n '.lstrip('\\n') }}|{{ 'xay'.strip('xy') }}|{{ ' a '.rstrip() }}|{{ 'aé'.rstrip('é') }}",
    " a\n |a| a|a",
  ],
  ["{{ strftime_now('%%%q') }}", "%%q"],
])("%s", (source, expected) => {
  const messages = [
    { role: "user", content: "a" },
    { role: "assistant", content: "b" },
  ];
  expect(render(source, { messages })).toBe(expected);
});

test("what a template raises is the client's error", () => {
  const error = errorOf(() => render("{{ raise_exception('Roles must alternate') }}"));
  expect(error.code).toBe("invalid_request");
  expect(error.message).toContain("Roles must alternate");
});

test.each([
  "{% if %}",
  "{{ a",
  "{% for x in y %}",
  "{{ 'a }}",
  "{% frob %}",
  "{# open",
  "{{ a b }}",
  "{% endif %}",
])("not a template: %s", (source) => {
  expect(errorOf(() => compileTemplate(source, (text) => text)).code).toBe("file_malformed");
});

const attacks: readonly (readonly [string, string])[] = [
  ["a long range", "{% for i in range(10**9) %}x{% endfor %}"],
  ["an endless range", "{% for i in range(0, 10, 10**400) %}x{% endfor %}"],
  [
    "nested loops",
    "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}{% endfor %}{% endfor %}{% endfor %}",
  ],
  [
    "nested loops over a variable",
    "{% set r = range(99999) %}{% for a in r %}{% for b in r %}{% for c in r %}{% endfor %}{% endfor %}{% endfor %}",
  ],
  [
    "doubled text",
    "{% set ns = namespace(s='x') %}{% for i in range(99) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
  ],
  [
    "doubled lists",
    "{% set ns = namespace(s=[1]) %}{% for i in range(99) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
  ],
  [
    "lists of lists, written",
    "{% set ns = namespace(s=[1]) %}{% for i in range(99) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s | tojson }}",
  ],
  [
    "mappings of mappings, written",
    "{% set ns = namespace(s={}) %}{% for i in range(99) %}{% set ns.s = {'a': ns.s, 'b': ns.s} %}{% endfor %}{{ ns.s }}",
  ],
  ["a namespace in itself", "{% set ns = namespace() %}{% set ns.a = ns %}{{ ns | tojson }}"],
  ["endless recursion", "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"],
  ["a wide indent", "{{ 'a\nb' | indent(10**9) }}"],
  ["a wide indent by name", "{{ 'a\nb' | indent(width=10**9) }}"],
  ["a wide indent in a block", "{% filter indent(10**9) %}a\nb{% endfilter %}"],
  ["wide JSON", "{{ [[1]] | tojson(indent=10**9) }}"],
  ["arguments hidden in a list", "{% set w = [10**9] %}{{ 'a\nb' | indent(*w) }}"],
  [
    "a multiplying join",
    "{% set ns = namespace(s='x') %}{% for i in range(20) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ range(99999) | join(ns.s) }}",
  ],
  [
    "a multiplying replace",
    "{% set ns = namespace(s='x') %}{% for i in range(20) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s.replace('', ns.s) }}",
  ],
  [
    "a multiplying replace under another name",
    "{% set ns = namespace(s='x') %}{% for i in range(20) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{% set r = ns.s['rep' ~ 'lace'] %}{{ r('', ns.s) }}",
  ],
  ["much output", "{% for i in range(99999) %}{{ messages }}{% endfor %}"],
  [
    "output in pieces",
    "{% for i in range(99999) %}{{ '0123456789012345678901234567890123456789012345678901234567890123456789' }}{% endfor %}",
  ],
  ["the constructor", "{{ ''.constructor.constructor('return process')() }}"],
  ["the constructor by index", "{{ ''['constructor']['constructor']('return process')() }}"],
  ["Python's classes", "{{ ''.__class__.__mro__[1].__subclasses__() }}"],
  [
    "Python's globals",
    "{% for x in ().__class__.__base__.__subclasses__() %}{{ x()._module.__builtins__['__import__']('os') }}{% endfor %}",
  ],
  ["cycler", "{{ cycler.__init__.__globals__.os.popen('id').read() }}"],
  ["lipsum", "{{ lipsum.__globals__['os'].popen('id').read() }}"],
  ["a request", "{{ request.application.__globals__.__builtins__.open('/etc/passwd').read() }}"],
  ["an import", "{% import 'os' as os %}{{ os.system('id') }}"],
  ["an include", "{% include '/etc/passwd' %}"],
];

test.each(attacks)("a hostile template: %s", (_, source) => {
  const start = performance.now();
  const error = errorOf(() => render(source, { messages: [{ role: "user", content: "x".repeat(1000) }] }));
  expect(["invalid_request", "file_malformed"]).toContain(error.code);
  expect(performance.now() - start).toBeLessThan(4000);
});

test.each([
  "{{ messages.__proto__ }}",
  "{{ messages[0].__proto__ }}",
  "{{ messages[0]['constructor'] }}",
  "{{ messages[0].toString }}",
  "{{ ''.__proto__ }}",
  "{{ (1).constructor }}",
  "{{ process }}{{ Bun }}{{ globalThis }}{{ require }}",
  "{{ messages[0].hasOwnProperty }}",
  "{{ self._TemplateReference__context.cycler.__init__.__globals__.os }}",
  "{{ messages | map(attribute='__proto__.polluted') | join }}",
])("no way to a prototype or a host object: %s", (source) => {
  expect(render(source, { messages: [{ role: "user" }] })).toBe("");
});

test("assigning to a prototype changes nothing", () => {
  render(
    "{% set ns = namespace() %}{% set ns.__proto__ = 1 %}{% set __proto__ = 2 %}{% set constructor = 3 %}",
  );
  expect(Object.hasOwn(Object.prototype, "1")).toBe(false);
  expect({}.constructor).toBe(Object);
});

test("oversized and blank-laden sources are refused before they are scanned", () => {
  const start = performance.now();
  expect(errorOf(() => render("x".repeat(1 << 20))).message).toContain("characters");
  expect(errorOf(() => render(`${" ".repeat(1 << 17)}x`)).message).toContain("blanks");
  expect(errorOf(() => render("(".repeat(1 << 17).replace(/^/, "{{"))).code).toBe("file_malformed");
  expect(performance.now() - start).toBeLessThan(2000);
});

test("large honest conversations are within the limits", () => {
  const messages = Array.from({ length: 2000 }, (_, i) => ({
    role: i % 2 ? "assistant" : "user",
    content: "x".repeat(2000),
  }));
  const source =
    "{% for m in messages %}{% set c = m.content | trim %}{% if '</think>' in c %}{% set c = c.split('</think>')[-1] %}{% endif %}{{ '<|im_start|>' + m.role + '\n' + c }}{% endfor %}";
  const template = compileTemplate(source, (text) => text);
  expect(template.render({ messages }, templateLimits(4_000_000)).length).toBeGreaterThan(4_000_000);
});

test("fuzz: whatever the template, the error is typed and comes in time", () => {
  let state = 99;
  const random = (n: number): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * n);
  };
  const parts =
    "{% |%}|{{ | }}|for|x|in|messages|if|else|endif|endfor|set|=|macro|f|(|)|endmacro|call|endcall|filter|endfilter|indent|join|tojson|~|+|*|**|-|9|99999999|'a'|[|]|{|}|:|,|.|\\|||is|not|defined|range|namespace|ns|replace|split|loop|break|continue|#}|{#|-%}|{%-|\n"
      .split("|")
      .concat("|");
  let rendered = 0;
  for (let i = 0; i < 1500; i++) {
    const wrap = random(3);
    const body = Array.from({ length: 1 + random(12) }, () => parts[random(parts.length)]).join(" ");
    const source =
      wrap === 0 ? body : wrap === 1 ? `{{ ${body} }}` : `{% for x in messages %}{{ ${body} }}{% endfor %}`;
    const start = performance.now();
    try {
      render(source, { messages: [{ role: "user", content: "a" }], f: "b", ns: [1, 2] });
      rendered += 1;
    } catch (error) {
      expect(error).toBeInstanceOf(PsionicError);
    }
    expect(performance.now() - start).toBeLessThan(4000);
  }
  expect(rendered).toBeGreaterThan(50);
});
