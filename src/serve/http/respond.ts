import type { GenerationPlan, GenerationSummary } from "../generation.ts";
import { begin } from "./begin.ts";
import type { Outcome, RouteContext } from "./context.ts";
import { drainingError, json, toHttpError } from "./errors.ts";
import { refusalHeaders, summaryHeaders, truthHeaders } from "./headers.ts";
import { generateMany, type ManyEvent } from "./many.ts";
import type { ServedModel } from "./options.ts";
import { sseBody, sseDone, sseEvent, sseHeaders } from "./sse.ts";

/** How one route writes its answer: as a stream of chunks or as one body. */
export type AnswerShape = {
  /** Text of the stream before anything is generated. */
  readonly opening: () => string;
  /** Text of the stream for one event; empty when it shows nothing. */
  readonly chunk: (event: ManyEvent) => string;
  /** Text of the stream after the last choice has ended. */
  readonly closing: (summary: GenerationSummary) => string;
  /** Takes in one event for `body`. */
  readonly collect: (event: ManyEvent) => void;
  readonly body: (summary: GenerationSummary) => object;
};

export type Answering = {
  readonly model: ServedModel;
  readonly plans: readonly GenerationPlan[];
  readonly shape: AnswerShape;
  readonly stream: boolean;
  readonly headers: Readonly<Record<string, string>>;
};

/** Longest wait for a refusal before a stream's headers go out, milliseconds. */
const graceMs = 200;

/** Generates, and answers as a stream or at once. The engine stops when the client goes away. */
export async function respond(context: RouteContext, answering: Answering): Promise<Response> {
  const { state, record } = context;
  const { model, plans, stream } = answering;
  if (state.draining()) throw drainingError();
  context.allowSilence();
  record.stream = stream;
  record.choices = plans.reduce((n, { request }) => n + request.choices, 0);
  const gone = new AbortController();
  const signal = AbortSignal.any([context.signal, gone.signal]);
  const atOnce = Math.max(1, model.engine.info.slots);
  const events = generateMany(model.engine, plans, atOnce, {
    signal,
    onToken: (sinceMs) => state.metrics.interToken.observe(sinceMs / 1000),
  });
  const headers = { ...truthHeaders(model.engine.info), ...answering.headers };
  if (!stream) return whole(context, answering, events, headers);
  const begun = await begin(events, graceMs);
  const finish = context.keepOpen();
  const body = sseBody(lines(context, answering, begun, finish), {
    pingMs: state.settings.pingMs,
    onGone: () => {
      gone.abort();
      finish({ gone: true });
    },
  });
  const request = plans[0]!.request;
  return new Response(body, { headers: { ...sseHeaders, ...headers, ...refusalHeaders(request) } });
}

async function whole(
  context: RouteContext,
  { plans, shape }: Answering,
  events: AsyncIterable<ManyEvent>,
  headers: Readonly<Record<string, string>>,
): Promise<Response> {
  for await (const item of events) {
    note(context, item);
    if (item.event.type !== "end") {
      shape.collect(item);
      continue;
    }
    // An aborted generation ends like any other; it must not pass for a complete answer.
    if (context.signal.aborted) break;
    const { summary } = item.event;
    return json(shape.body(summary), 200, { ...headers, ...summaryHeaders(summary, plans[0]!.request) });
  }
  throw drainingError();
}

/** The lines of a stream. Never throws: an error becomes an event, after which the stream ends without `[DONE]`. */
async function* lines(
  context: RouteContext,
  { shape }: Answering,
  events: AsyncIterable<ManyEvent>,
  finish: (outcome?: Outcome) => void,
): AsyncGenerator<string, void, void> {
  let outcome: Outcome = {};
  try {
    yield shape.opening();
    for await (const item of events) {
      note(context, item);
      if (item.event.type === "end") {
        if (context.state.shutdown.aborted) throw drainingError();
        yield shape.closing(item.event.summary) + sseDone;
        break;
      }
      const text = shape.chunk(item);
      if (text !== "") yield text;
    }
  } catch (error) {
    outcome = { error };
    yield sseEvent(toHttpError(error, context.record).body());
  } finally {
    finish(outcome);
  }
}

function note({ record }: RouteContext, { event }: ManyEvent): void {
  if (event.type === "end") record.summary = event.summary;
  else if (event.type === "finish") record.finish ??= event.cause;
}
