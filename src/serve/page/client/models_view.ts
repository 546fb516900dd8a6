import { type ApiError, listModels, type ModelCard } from "./api.ts";
import { byId, element } from "./elements.ts";
import { remember, remembered } from "./storage.ts";

const storedName = "model";

/** Which model answers: its name, or a choice where the server has several. */
export class ModelsView {
  private readonly choice = byId<HTMLSelectElement>("model");
  private readonly only = byId("model-name");
  private readonly chip = byId("backend");
  private cards: readonly ModelCard[] = [];
  private readonly onChange: (card: ModelCard | undefined, all: readonly ModelCard[]) => void;

  constructor(onChange: (card: ModelCard | undefined, all: readonly ModelCard[]) => void) {
    this.onChange = onChange;
    this.choice.addEventListener("change", () => {
      remember("tab", storedName, this.choice.value);
      this.show();
    });
  }

  /** Asks the server for its models. Throws what the server says. */
  async load(): Promise<void> {
    const cards = await listModels();
    if (JSON.stringify(cards) === JSON.stringify(this.cards)) return;
    const wanted = this.current?.id ?? remembered("tab", storedName);
    this.cards = cards;
    this.choice.replaceChildren(
      ...cards.map(({ id }) => element("option", { value: id, selected: id === wanted }, id)),
    );
    this.choice.hidden = cards.length < 2;
    this.only.hidden = cards.length >= 2;
    this.show();
  }

  get current(): ModelCard | undefined {
    return this.cards.find(({ id }) => id === this.choice.value) ?? this.cards[0];
  }

  /** False for a model that is loaded when it is first asked; a server that does not say has it loaded. */
  get isLoaded(): boolean {
    return (this.current?.psionic_load_status ?? "loaded") === "loaded";
  }

  /** Why there is no model to name. */
  trouble(error: ApiError): void {
    this.only.hidden = false;
    this.choice.hidden = true;
    this.chip.hidden = true;
    this.only.textContent = error.code === "model_loading" ? "Loading the model…" : "No model";
    this.only.title = error.message;
    this.cards = [];
    this.onChange(undefined, []);
  }

  private show(): void {
    const card = this.current;
    this.only.textContent = card?.id ?? "No model";
    this.only.title = card?.id ?? "";
    const backend = card?.psionic_served_backend;
    const mode = card?.psionic_execution_mode;
    this.chip.hidden = typeof backend !== "string";
    this.chip.textContent = [backend, mode].filter((part) => typeof part === "string").join(" · ");
    this.onChange(card, this.cards);
  }
}
