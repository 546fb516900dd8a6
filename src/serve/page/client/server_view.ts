import type { ModelCard } from "./api.ts";
import { byId, element } from "./elements.ts";
import { bytes, count, magnitude, percent, plural, rate } from "./format.ts";
import type { LiveState } from "./live.ts";
import { RequestTable } from "./request_table.ts";
import { Sparkline } from "./sparkline.ts";

/** One figure with its line over time and what else belongs to it. */
class Card {
  readonly node: HTMLElement;
  private readonly value = element("span", { class: "value" });
  private readonly unit = element("span", { class: "unit" });
  private readonly line = new Sparkline();
  private readonly facts = element("dl", { class: "facts" });

  constructor(title: string) {
    this.node = element(
      "section",
      { class: "card", "aria-label": title },
      element("h3", {}, title),
      element("p", { class: "figure" }, this.value, " ", this.unit),
      this.line.node,
      this.facts,
    );
  }

  update(
    value: string,
    unit: string,
    line: { readonly values: readonly number[]; readonly label: string; readonly least: number },
    facts: readonly (readonly [name: string, value: string])[],
  ): void {
    this.value.textContent = value;
    this.unit.textContent = unit;
    this.line.update(line.values, line.label, line.least);
    setFacts(this.facts, facts);
  }
}

/** Writes a list of names and values; what has not changed is not touched. */
function setFacts(list: HTMLElement, facts: readonly (readonly [string, string])[]): void {
  if (list.children.length !== facts.length) {
    list.replaceChildren(...facts.map(() => element("div", {}, element("dt"), element("dd"))));
  }
  facts.forEach(([name, value], i) => {
    const [term, told] = list.children[i]!.children;
    if (term!.textContent !== name) term!.textContent = name;
    if (told!.textContent !== value) told!.textContent = value;
  });
}

/** The view of the server: its load now and over five minutes, the model and what runs it, the last requests. */
export class ServerView {
  private readonly speed = new Card("Generation");
  private readonly requests = new Card("Requests");
  private readonly cache = new Card("Prefix cache");
  private readonly memory = new Card("Memory");
  private readonly table = new RequestTable();

  constructor() {
    // scrolls, so the keyboard must reach it
    byId("panel-server").tabIndex = 0;
    byId("cards").append(...[this.speed, this.requests, this.cache, this.memory].map(({ node }) => node));
    byId("requests").append(this.table.node);
  }

  update({ load, samples, requests }: LiveState): void {
    const last = samples.at(-1);
    const speeds = samples.map((sample) => sample.completion_tokens_per_second);
    const most = Math.max(0, ...speeds);
    const speed = last?.completion_tokens_per_second ?? 0;
    this.speed.update(
      rate(speed),
      "tokens/s",
      {
        values: speeds,
        label: `Tokens per second over five minutes: now ${rate(speed)}, most ${rate(most)}`,
        least: 1,
      },
      [
        ["Highest in 5 min", `${rate(most)} /s`],
        ["Prompt tokens", `${rate(last?.prompt_tokens_per_second ?? 0)} /s`],
      ],
    );
    const busy = samples.map(({ active, queued }) => active + queued);
    this.requests.update(
      count(load.active),
      "running",
      {
        values: busy,
        label: `Requests running or waiting over five minutes: now ${load.active + load.queued}`,
        least: 2,
      },
      [
        ["Waiting", `${count(load.queued)} of ${count(load.max_queued)}`],
        ["Slots", count(load.slots)],
      ],
    );
    this.updateCache(load, samples);
    this.updateMemory(load, samples);
    this.table.update(requests);
  }

  private updateCache(
    { prefix_cache: cache, memory }: LiveState["load"],
    samples: LiveState["samples"],
  ): void {
    const pages = samples.map((sample) => sample.cache_pages_used);
    this.cache.update(
      cache.hit_rate === null ? "–" : percent(cache.hit_rate),
      "hit rate",
      {
        values: pages,
        label: `Cache pages in use over five minutes: now ${memory.cache_pages_used}`,
        least: memory.cache_pages,
      },
      [
        ["Hits", `${count(cache.hits)} of ${count(cache.hits + cache.misses)}`],
        ["Tokens reused", count(cache.cached_prompt_tokens)],
        ["Pages", `${count(memory.cache_pages_used)} of ${count(memory.cache_pages)}`],
      ],
    );
  }

  private updateMemory({ memory }: LiveState["load"], samples: LiveState["samples"]): void {
    const values = samples.map((sample) => sample.resident_bytes);
    this.memory.update(
      bytes(memory.resident_bytes),
      "resident",
      {
        ...{ values, least: 1 },
        label: `Resident memory over five minutes: now ${bytes(memory.resident_bytes)}`,
      },
      [
        ...(memory.device_bytes > 0 ? [["On the device", bytes(memory.device_bytes)] as const] : []),
        ["Weights", bytes(memory.planned_weight_bytes)],
        ["Cache, planned", bytes(memory.planned_cache_bytes)],
        ["Workspace, planned", bytes(memory.planned_workspace_bytes)],
      ],
    );
  }

  /** The models and what computes them, as the server's cards say. */
  showModels(cards: readonly ModelCard[]): void {
    byId("models").replaceChildren(...cards.map(modelNode));
  }
}

const truth = [
  ["psionic_served_backend", "Backend"],
  ["psionic_execution_mode", "Execution mode"],
  ["psionic_execution_engine", "Execution engine"],
  ["psionic_residency_mode", "Residency"],
  ["psionic_hybrid_offload", "Hybrid offload"],
  ["psionic_fallback_policy", "Fallback policy"],
  ["psionic_performance_class", "Performance class"],
] as const;

function modelNode(card: ModelCard): HTMLElement {
  const { meta = {} } = card;
  const number = (name: string, show: (value: number) => string): string | undefined =>
    typeof meta[name] === "number" ? show(meta[name]) : undefined;
  const text = (value: unknown): string | undefined =>
    typeof value === "string" && value !== "" ? value : undefined;
  const about = element("dl", { class: "facts" });
  const tuple = element("dl", { class: "facts" });
  const facts = [
    ["State", text(card.psionic_load_error) ?? text(card.psionic_load_status)],
    ["Architecture", text(meta.architecture)],
    ["Parameters", number("n_params", magnitude)],
    ["Quantization", text(meta.quantization)],
    ["Weights", number("size", bytes)],
    ["Context", typeof card.context_length === "number" ? plural(card.context_length, "token") : undefined],
    ["Trained for", number("n_ctx_train", (value) => plural(value, "token"))],
    ["Vocabulary", number("n_vocab", count)],
    ["Can", card.capabilities?.join(", ")],
    ["Digest", text(meta.digest)],
  ];
  setFacts(
    about,
    facts.filter((fact): fact is [string, string] => fact[1] !== undefined),
  );
  setFacts(
    tuple,
    truth.flatMap(([name, label]) => (text(card[name]) ? [[label, text(card[name])!] as const] : [])),
  );
  return element(
    "section",
    { class: "card model", "aria-label": card.id },
    element("h3", {}, card.id),
    element("div", { class: "columns" }, about, tuple),
  );
}
