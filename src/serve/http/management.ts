import { createHash } from "node:crypto";
import { hostname } from "node:os";
import { modelId } from "../models/names.ts";
import type { ModelRow } from "../models/source.ts";
import { summedStats } from "./activity.ts";
import type { ServerState } from "./context.ts";
import { cardOf, modelFacts, servedEndpoints } from "./model_card.ts";

/** What happened on this node, for those who watch. */
export type ManagementEvent = {
  readonly event_id: number;
  readonly emitted_at_ms: number;
  readonly topology_digest: string;
  readonly payload: { readonly kind: "topology_snapshot" | "route_selection" } & Readonly<
    Record<string, unknown>
  >;
};

/** Gets undefined when the server stops and no event will follow. */
type Listener = (event: ManagementEvent | undefined) => void;

/** Which request went where; kept only for those who listen, but for the last one. */
export class ManagementEvents {
  private readonly listeners = new Set<Listener>();
  private count = 0;
  last: Readonly<Record<string, unknown>> | null = null;

  /** A request has been taken in. */
  select(state: ServerState, facts: Readonly<Record<string, unknown>>): void {
    this.last = { ...facts, selected_at_ms: Date.now() };
    if (this.listeners.size === 0) return;
    const event = this.event(topologyDigest(state), { kind: "route_selection", ...this.last });
    for (const listener of this.listeners) listener(event);
  }

  /** A model has come or gone, and with it a route. */
  changed(state: ServerState): void {
    if (this.listeners.size === 0) return;
    const event = this.snapshot(state);
    for (const listener of this.listeners) listener(event);
  }

  /** The first event of a stream. */
  snapshot(state: ServerState): ManagementEvent {
    const status = managementStatus(state);
    return this.event(status.topology_digest, { kind: "topology_snapshot", status });
  }

  listen(listener: Listener): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  /** Lets those who watch go, so that a stopping server need not wait for them. */
  close(): void {
    for (const listener of this.listeners) listener(undefined);
    this.listeners.clear();
  }

  private event(topology_digest: string, payload: ManagementEvent["payload"]): ManagementEvent {
    this.count += 1;
    return { event_id: this.count, emitted_at_ms: Date.now(), topology_digest, payload };
  }
}

/** The node, its models, where their requests go, and how busy the engines are. */
export function managementStatus(state: ServerState) {
  const topology = topologyOf(state);
  const { rows } = state.models;
  const engines = rows.flatMap(({ served }) => (served ? [served.engine] : []));
  return {
    namespace: "psionic_management",
    topology_digest: digestOf(topology),
    ...topology,
    status: state.draining() ? "draining" : serverStatus(state),
    version: state.settings.version,
    uptime_ms: Math.round(process.uptime() * 1000),
    // a fixed set's only model has no name before it is loaded
    models: rows.filter(({ name }) => name !== "").map(modelStatus),
    engine: engines.length > 0 ? snakeCase(summedStats(engines)) : null,
    load: state.activity.load(),
    responses: { kept: state.responses.size, ...state.responses.limits },
  };
}

function serverStatus({ models }: ServerState): "loading" | "loaded" | "failed" {
  return models.status === "ready" ? "loaded" : models.status;
}

/** A model's card with what it takes and does. */
function modelStatus(row: ModelRow) {
  const { served } = row;
  return {
    ...cardOf(row),
    psionic_requests: row.requests,
    psionic_last_used_ms: row.lastUsedMs,
    psionic_loads: row.loads,
    psionic_memory: served ? snakeCase(served.engine.info.memory) : null,
    psionic_engine: served ? snakeCase(served.engine.stats()) : null,
  };
}

function snakeCase(stats: object): Readonly<Record<string, unknown>> {
  const snake = (name: string): string => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
  return Object.fromEntries(Object.entries(stats).map(([name, value]) => [snake(name), value]));
}

function topologyOf(state: ServerState) {
  const node = hostname();
  const infos = state.models.rows.flatMap(({ served }) => (served ? [served.engine.info] : []));
  const routes = infos.map((info, i) => ({
    worker_id: `local_${info.backend.backend}_${i}`,
    node_id: node,
    model_id: modelId(info),
    model: modelFacts(info).name,
    endpoints: servedEndpoints,
    locality: "local",
    provenance: "local_execution",
    ...modelFacts(info).truth,
  }));
  const backends = [...new Set(infos.map(({ backend }) => backend.backend))];
  return {
    join_state: { posture: "standalone" },
    nodes: [{ node_id: node, role: "local", backends }],
    routes,
    // One node has nowhere to send demand, and nothing to rebalance.
    demand: [],
    rebalance_plan: [],
    last_route_execution: state.events.last,
  };
}

function topologyDigest(state: ServerState): string {
  return digestOf(topologyOf(state));
}

function digestOf(topology: ReturnType<typeof topologyOf>): string {
  return createHash("sha256").update(JSON.stringify(topology)).digest("hex");
}
