import { createHash } from "node:crypto";
import { hostname } from "node:os";
import type { ServerState } from "./context.ts";
import { modelCard, modelFacts, modelId, servedEndpoints } from "./model_card.ts";

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

/** The node, the loaded models, where their requests go, and how busy the engine is. */
export function managementStatus(state: ServerState) {
  const topology = topologyOf(state);
  const loaded = state.loadStatus() === "loaded";
  const served = loaded ? state.model() : undefined;
  return {
    namespace: "psionic_management",
    topology_digest: digestOf(topology),
    ...topology,
    status: state.draining() ? "draining" : state.loadStatus(),
    version: state.settings.version,
    uptime_ms: Math.round(process.uptime() * 1000),
    models: served ? [modelCard(served.engine.info, served.chat)] : [],
    engine: served ? engineOf(served.engine.stats()) : null,
    responses: { kept: state.responses.size, ...state.responses.limits },
  };
}

function engineOf(stats: object): Readonly<Record<string, unknown>> {
  const snake = (name: string): string => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
  return Object.fromEntries(Object.entries(stats).map(([name, value]) => [snake(name), value]));
}

function topologyOf(state: ServerState) {
  const served = state.loadStatus() === "loaded" ? state.model() : undefined;
  const info = served?.engine.info;
  const node = hostname();
  const route = info && {
    worker_id: `local_${info.backend.backend}_0`,
    node_id: node,
    model_id: modelId(info),
    model: modelFacts(info).name,
    endpoints: servedEndpoints,
    locality: "local",
    provenance: "local_execution",
    ...modelFacts(info).truth,
  };
  return {
    join_state: { posture: "standalone" },
    nodes: [{ node_id: node, role: "local", backends: info ? [info.backend.backend] : [] }],
    routes: route ? [route] : [],
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
