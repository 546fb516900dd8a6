import { apiKey, setApiKey } from "./api.ts";
import { byId, element } from "./elements.ts";
import {
  type Entries,
  efforts,
  numberFields,
  readSettings,
  type Settings,
  storedEntries,
  storeEntries,
} from "./settings.ts";

/** The dialog for the system prompt, sampling and tools. Changes count from the next answer on. */
export class SettingsView {
  private readonly dialog = byId<HTMLDialogElement>("settings");
  private readonly form = byId<HTMLFormElement>("settings-form");
  private entries: Entries = storedEntries();
  private reasons = false;

  constructor(onForgetKey: () => void) {
    byId("numbers").append(...numberFields.map(numberNode));
    byId("reasoning-effort").append(
      element("option", { value: "" }, "The server's default"),
      ...efforts.map((effort) => element("option", { value: effort }, effort === "none" ? "off" : effort)),
    );
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.save()) this.dialog.close();
    });
    byId("settings-cancel").addEventListener("click", () => this.dialog.close());
    byId("settings-reset").addEventListener("click", () => this.fill({}));
    byId("forget-key").addEventListener("click", () => {
      setApiKey(undefined);
      this.dialog.close();
      onForgetKey();
    });
    this.mark();
  }

  open(): void {
    this.fill(this.entries);
    byId("forget-key").hidden = apiKey() === undefined;
    this.dialog.showModal();
  }

  get current(): Settings {
    const { reasoning_effort: effort = "", ...rest } = this.entries;
    const kept = this.reasons && effort !== "" ? { ...rest, reasoning_effort: effort } : rest;
    return readSettings(kept).settings;
  }

  /** Effort is a setting only where the model reasons. */
  showEffort(reasons: boolean): void {
    this.reasons = reasons;
    byId("effort-row").hidden = !reasons;
  }

  private fill(entries: Entries): void {
    for (const control of this.controls()) {
      control.value = entries[control.name] ?? "";
      control.setCustomValidity("");
    }
  }

  /** False when a field has what cannot be used; the browser then says which. */
  private save(): boolean {
    const controls = this.controls();
    const entries = Object.fromEntries(
      controls.map(({ name, value }) => [name, value] as const).filter(([, value]) => value.trim() !== ""),
    );
    const { problems } = readSettings(entries);
    for (const control of controls) {
      control.setCustomValidity(problems.find(({ name }) => name === control.name)?.message ?? "");
    }
    if (!this.form.reportValidity()) return false;
    this.entries = entries;
    storeEntries(entries);
    this.mark();
    return true;
  }

  /** Shows on the button that something is set. */
  private mark(): void {
    byId("open-settings").classList.toggle("set", Object.keys(this.entries).length > 0);
  }

  private controls() {
    const controls = this.form.querySelectorAll<HTMLInputElement | HTMLTextAreaElement | HTMLSelectElement>(
      "[name]",
    );
    for (const control of controls) control.oninput = () => control.setCustomValidity("");
    return [...controls];
  }
}

function numberNode({ name, label, help }: (typeof numberFields)[number]): HTMLElement {
  const id = `field-${name}`;
  return element(
    "div",
    { class: "field" },
    element("label", { for: id }, label),
    element("input", {
      id,
      name,
      type: "text",
      inputmode: "decimal",
      autocomplete: "off",
      "aria-describedby": `${id}-help`,
      placeholder: "default",
    }),
    element("small", { id: `${id}-help` }, help),
  );
}
