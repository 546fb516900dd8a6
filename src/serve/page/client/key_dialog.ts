import { setApiKey } from "./api.ts";
import { byId } from "./elements.ts";

type Asked = { readonly promise: Promise<boolean>; readonly resolve: (given: boolean) => void };

/** Asks for the server's key. It stays in this tab and goes nowhere but to this server. */
export class KeyDialog {
  private readonly dialog = byId<HTMLDialogElement>("key");
  private readonly input = byId<HTMLInputElement>("key-input");
  private asked: Asked | undefined;

  constructor() {
    byId<HTMLFormElement>("key-form").addEventListener("submit", (event) => {
      event.preventDefault();
      const key = this.input.value.trim();
      if (key === "") return;
      setApiKey(key);
      this.answer(true);
    });
    this.dialog.addEventListener("close", () => this.answer(false));
    byId("key-cancel").addEventListener("click", () => this.dialog.close());
  }

  /** Resolves when a key was given, or with false. `message` is what the server said. */
  ask(message: string): Promise<boolean> {
    byId("key-message").textContent = message;
    if (this.asked) return this.asked.promise;
    let resolve: Asked["resolve"] = () => {};
    const promise = new Promise<boolean>((given) => {
      resolve = given;
    });
    this.asked = { promise, resolve };
    this.input.value = "";
    this.dialog.showModal();
    this.input.focus();
    return promise;
  }

  private answer(given: boolean): void {
    const { asked } = this;
    this.asked = undefined;
    if (this.dialog.open) this.dialog.close();
    asked?.resolve(given);
  }
}
