/** Short ways to make elements. Text only ever becomes text nodes. */

type Child = Node | string | undefined;
type Attributes = Readonly<Record<string, string | boolean | undefined>>;

/** An element with attributes (`true` = present, `false` or undefined = absent) and children. */
export function element<K extends keyof HTMLElementTagNameMap>(
  name: K,
  attributes: Attributes = {},
  ...children: readonly Child[]
): HTMLElementTagNameMap[K] {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === true) made.setAttribute(key, "");
    else if (typeof value === "string") made.setAttribute(key, value);
  }
  for (const child of children) if (child !== undefined) made.append(child);
  return made;
}

/** The element of the document with this id; it is part of index.html, so it is there. */
export function byId<T extends HTMLElement = HTMLElement>(id: string): T {
  const found = document.getElementById(id);
  if (found === null) throw new Error(`[page] expected an element #${id}, got none`);
  return found as T;
}

const svg = "http://www.w3.org/2000/svg";

/** An icon of index.html's sprite; it says nothing to those who listen. */
export function icon(name: string): SVGSVGElement {
  const drawing = document.createElementNS(svg, "svg");
  drawing.setAttribute("class", "icon");
  drawing.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(svg, "use");
  use.setAttribute("href", `#icon-${name}`);
  drawing.append(use);
  return drawing;
}

/** A button with an icon; `label` is its name, and its text where `shown` is set. */
export function button(
  label: string,
  drawing: string,
  act: () => void,
  { shown = false, kind = "quiet" }: { readonly shown?: boolean; readonly kind?: string } = {},
): HTMLButtonElement {
  const made = element(
    "button",
    { type: "button", class: `button ${kind}`, ...(shown ? {} : { "aria-label": label, title: label }) },
    icon(drawing),
    shown ? element("span", {}, label) : undefined,
  );
  made.addEventListener("click", act);
  return made;
}

/** Puts text on the clipboard; false where the browser does not let us (plain HTTP from another machine). */
export async function copy(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copyBySelection(text);
  }
}

/** The older way, which also works without TLS. */
function copyBySelection(text: string): boolean {
  const area = element("textarea", { class: "offscreen", "aria-hidden": "true" });
  area.value = text;
  const focused = document.activeElement;
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  if (focused instanceof HTMLElement) focused.focus();
  return done;
}
