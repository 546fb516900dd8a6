import { ModelSet } from "../models/set.ts";
import type { Engine } from "../protocol.ts";
import type { ServedModel } from "./options.ts";

/** Rehearsals go on for so long behind the last request. */
const lastingMs = 60_000;

/** Tokens of a rehearsed prompt: enough for the list's own parser. */
const promptTokens = 1024;
const text = "a ".repeat(100);

/** Bodies of the routes that are rehearsed. */
const bodies: Readonly<Record<string, string>> = {
  "/v1/completions": JSON.stringify({
    ...{ prompt: Array.from({ length: promptTokens }, (_, i) => 1 + (i % 8)), max_tokens: 1, temperature: 0 },
    ...{ stream: true, stream_options: { include_usage: true } },
  }),
  "/v1/chat/completions": JSON.stringify({
    ...{ messages: [{ role: "user", content: text }], max_tokens: 1, temperature: 0 },
    ...{ stream: true, stream_options: { include_usage: true } },
  }),
};

/** Gives what answers requests to a set of models, with nothing of them counted or logged. */
export type Rehearse = (models: ModelSet) => (route: string, request: Request) => Promise<Response>;

/**
 * Takes a made-up request now and then through everything that answers one, while a server waits for the next real one:
 * after a second of silence its code has left the processor's caches, which costs a first token 0.2 to 0.5 ms (docs/log.md). Begins with a
 * request and ends a minute after the last; a server whose processor computes the model does without.
 */
export class Rehearsal {
  private readonly models: ModelSet;
  private readonly rehearse: Rehearse;
  private readonly everyMs: number;
  private readonly busy: () => boolean;
  private timer: Timer | undefined;
  private heardAt = 0;
  private route = "";
  /** What answers for a model, by a stand-in of its engine; none between two runs, since it keeps a model that is unloaded meanwhile. */
  private stage: { readonly of: ServedModel; readonly answer: ReturnType<Rehearse> } | undefined;
  private underWay = false;

  /** `busy`: whether real requests are being answered. */
  constructor(models: ModelSet, everyMs: number, busy: () => boolean, rehearse: Rehearse) {
    this.models = models;
    this.busy = busy;
    this.everyMs = everyMs;
    this.rehearse = rehearse;
  }

  /** A request has come in. */
  heard(route: string): void {
    if (this.everyMs === 0 || !Object.hasOwn(bodies, route)) return;
    this.route = route;
    this.heardAt = performance.now();
    if (this.timer) return;
    this.timer = setInterval(() => void this.play(), this.everyMs);
    this.timer.unref();
  }

  close(): void {
    clearInterval(this.timer);
    this.timer = undefined;
    this.stage = undefined;
  }

  private async play(): Promise<void> {
    if (performance.now() - this.heardAt > lastingMs) this.close();
    const { served } = this.models.default;
    if (this.stage?.of !== served) this.stage = undefined;
    if (!this.timer || this.underWay || this.busy() || !served?.engine.info.device) return;
    const body = bodies[this.route]!;
    const headers = { "content-type": "application/json", "content-length": String(body.length) };
    this.underWay = true;
    try {
      if (!this.stage) {
        const models = ModelSet.of({ ...served, engine: standIn(served.engine) });
        await models.ready;
        this.stage = { of: served, answer: this.rehearse(models) };
      }
      const request = new Request(`http://localhost${this.route}`, { method: "POST", headers, body });
      await (await this.stage.answer(this.route, request)).text();
    } catch {
      this.close(); // what is wrong is told to the next real request, which also begins them again
    } finally {
      this.underWay = false;
    }
  }
}

/** The engine as rehearsals see it. */
function standIn(engine: Engine): Engine {
  return {
    info: engine.info,
    generate: (request, ...signals) => engine.generate({ ...request, rehearsal: true }, ...signals),
    stats: () => engine.stats(),
    close: () => Promise.resolve(),
  };
}
