import { element } from "./elements.ts";
import { clock, count, duration, rate } from "./format.ts";
import type { LoggedRequest } from "./live.ts";

type Column = {
  readonly title: string;
  readonly numeric?: true;
  readonly of: (request: LoggedRequest) => string;
};

const none = "–";
const time = (ms: number | null): string => (ms === null ? none : duration(ms));

/** Shorter than the path and as clear; a path that leads nowhere as it was asked for. */
function routeName({ route, path }: LoggedRequest): string {
  return route === "unmatched" ? path : route.replace(/^\/v1\//, "");
}

/** The usual end is told in one word; the rest as the server names it. */
function endOf(cause: string | null): string {
  if (cause === null) return none;
  return cause === "end_of_sequence_token" ? "stop" : cause.replaceAll("_", " ");
}

const columns: readonly Column[] = [
  { title: "Time", of: ({ started_at_ms }) => clock(started_at_ms) },
  { title: "Request", of: routeName },
  { title: "Model", of: ({ model }) => model ?? "" },
  { title: "Status", of: ({ state, status }) => (state === "running" ? "running" : String(status ?? none)) },
  {
    title: "Prompt",
    numeric: true,
    of: ({ prompt_tokens, cached_tokens }) =>
      prompt_tokens === null
        ? none
        : `${count(prompt_tokens)}${cached_tokens ? ` (${count(cached_tokens)})` : ""}`,
  },
  {
    title: "Answer",
    numeric: true,
    of: ({ completion_tokens }) => (completion_tokens === null ? none : count(completion_tokens)),
  },
  { title: "Queue", numeric: true, of: ({ queue_ms }) => time(queue_ms) },
  { title: "First token", numeric: true, of: ({ ttft_ms }) => time(ttft_ms) },
  { title: "Tokens/s", numeric: true, of: ({ itl_ms }) => (itl_ms ? rate(1000 / itl_ms) : none) },
  { title: "Total", numeric: true, of: ({ duration_ms }) => time(duration_ms) },
  { title: "End", of: ({ error, finish, state }) => error ?? (state === "running" ? none : endOf(finish)) },
];

/** The last requests, newest first. */
export class RequestTable {
  readonly node: HTMLElement;
  private readonly rows = element("tbody", { role: "rowgroup" });
  private readonly nothing = element("p", { class: "nothing" }, "No request yet.");
  private readonly shown = new Map<string, { readonly row: HTMLElement; readonly state: string }>();

  constructor() {
    // on a phone the rows are laid out as cards, which takes a table's meaning away unless roles say it
    const head = columns.map(({ title, numeric }) =>
      element(
        "th",
        { role: "columnheader", scope: "col", class: numeric && "numeric", "data-title": title },
        title,
      ),
    );
    const table = element(
      "table",
      { role: "table", "aria-label": "Last requests" },
      element("thead", { role: "rowgroup" }, element("tr", { role: "row" }, ...head)),
      this.rows,
    );
    const frame = { class: "log-frame", tabindex: "0", role: "region", "aria-label": "Request log" };
    this.node = element("div", frame, table, this.nothing);
  }

  update(requests: readonly LoggedRequest[]): void {
    this.nothing.hidden = requests.length > 0;
    const models = new Set(requests.flatMap(({ model }) => model ?? []));
    this.node.classList.toggle("one-model", models.size < 2);
    const wanted = new Set(requests.map(({ request_id }) => request_id));
    for (const [id, { row }] of this.shown) {
      if (wanted.has(id)) continue;
      row.remove();
      this.shown.delete(id);
    }
    for (const request of requests) {
      const known = this.shown.get(request.request_id);
      if (known?.state === request.state) continue;
      const row = rowNode(request);
      if (known) known.row.replaceWith(row);
      else this.rows.prepend(row);
      this.shown.set(request.request_id, { row, state: request.state });
    }
  }
}

function rowNode(request: LoggedRequest): HTMLElement {
  const { state, status, request_id } = request;
  const kind = state === "running" ? "running" : (status ?? 0) >= 400 ? "failed" : "fine";
  const cells = columns.map(({ title, numeric, of }) =>
    element("td", { role: "cell", class: numeric && "numeric", "data-title": title }, of(request)),
  );
  return element("tr", { role: "row", class: kind, title: request_id }, ...cells);
}
