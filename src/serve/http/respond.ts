import type { GenerationPlan, GenerationSummary } from "../generation.ts";
import { begin } from "./begin.ts";
import type { Outcome, RouteContext } from "./context.ts";
import { drainingError, type HttpError, json, toHttpError } from "./errors.ts";
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
  /** Text after `closing`; `data: [DONE]` where a route does not say otherwise. */
  readonly end?: string;
  /** Text of the stream for an error that ends it; otherwise an event with an `error` member. */
  readonly failure?: (error: HttpError) => string;
  /** Whether a refusal at the start belongs into the stream instead of a status of its own. */
  readonly streamsRefusal?: (error: HttpError) => boolean;
  /** The body of a whole answer that was cancelled by another request. */
  readonly cancelled?: () => object;
  /** Called once nothing more can come, however the answer ended. */
  readonly ended?: () => void;
};

export type Answering = {
  readonly model: ServedModel;
  readonly plans: readonly GenerationPlan[];
  readonly shape: AnswerShape;
  readonly stream: boolean;
  readonly headers: Readonly<Record<string, string>>;
  /** Aborted when another request cancels this one. */
  readonly cancel?: AbortSignal;
};

/** Longest wait for a refusal before a stream's headers go out, milliseconds. */
const graceMs = 200;

/** Generates, and answers as a stream or at once. The engine stops when the client goes away. */
export async function respond(context: RouteContext, answering: Answering): Promise<Response> {
  const { state, record } = context;
  const { model, plans, stream } = answering;
  if (state.draining()) {
    answering.shape.ended?.();
    throw drainingError();
  }
  context.allowSilence();
  record.stream = stream;
  const name = record.model ?? "";
  state.events.select(state, {
    request_id: record.id,
    route: record.route,
    model: name,
    worker: model.engine.info.backend.backend,
  });
  record.choices = plans.reduce((n, { request }) => n + request.choices, 0);
  const gone = new AbortController();
  const { cancel, shape } = answering;
  const signal = AbortSignal.any([context.signal, gone.signal, ...(cancel ? [cancel] : [])]);
  const atOnce = Math.max(1, model.engine.info.slots);
  const events = generateMany(model.engine, plans, atOnce, {
    signal,
    onToken: (sinceMs) => state.metrics.interToken.observe({ model: name }, sinceMs / 1000),
  });
  const headers = { ...truthHeaders(model.engine.info), ...answering.headers };
  if (!stream) return whole(context, answering, events, headers);
  const begun = await begin(events, graceMs).catch((thrown: unknown) => refused(context, shape, thrown));
  const close = context.keepOpen();
  const finish = (outcome?: Outcome): void => {
    shape.ended?.();
    close(outcome);
  };
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

/** A refusal that the stream itself tells; thrown on where it gets a status of its own. */
function refused({ record }: RouteContext, shape: AnswerShape, thrown: unknown): AsyncIterable<ManyEvent> {
  if (shape.streamsRefusal?.(toHttpError(thrown, record))) return failing(thrown);
  shape.ended?.();
  throw thrown;
}

function failing(error: unknown): AsyncIterable<ManyEvent> {
  return { [Symbol.asyncIterator]: () => ({ next: () => Promise.reject(error) }) };
}

async function whole(
  context: RouteContext,
  { plans, shape, cancel }: Answering,
  events: AsyncIterable<ManyEvent>,
  headers: Readonly<Record<string, string>>,
): Promise<Response> {
  const cancelled = (): Response | undefined =>
    cancel?.aborted && shape.cancelled ? json(shape.cancelled(), 200, headers) : undefined;
  try {
    for await (const item of events) {
      note(context, item);
      if (item.event.type !== "end") {
        shape.collect(item);
        continue;
      }
      const stopped = cancelled();
      if (stopped) return stopped;
      // An aborted generation ends like any other; it must not pass for a complete answer.
      if (context.signal.aborted) break;
      const { summary } = item.event;
      return json(shape.body(summary), 200, { ...headers, ...summaryHeaders(summary, plans[0]!.request) });
    }
  } catch (thrown) {
    const stopped = cancelled();
    if (stopped) return stopped;
    throw thrown;
  } finally {
    shape.ended?.();
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
        yield shape.closing(item.event.summary) + (shape.end ?? sseDone);
        break;
      }
      const text = shape.chunk(item);
      if (text !== "") yield text;
    }
  } catch (error) {
    outcome = { error };
    const known = toHttpError(error, context.record);
    yield shape.failure?.(known) ?? sseEvent(known.body());
  } finally {
    finish(outcome);
  }
}

function note({ record }: RouteContext, { event }: ManyEvent): void {
  if (event.type === "end") record.summary = event.summary;
  else if (event.type === "finish") record.finish ??= event.cause;
}
