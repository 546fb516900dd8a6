import type { Route } from "../context.ts";
import { chatCompletions } from "./chat.ts";
import { completions } from "./completions.ts";
import { embeddings } from "./embeddings.ts";
import { health } from "./health.ts";
import { activity, events, status } from "./management.ts";
import { countTokens, messages } from "./messages.ts";
import { metrics } from "./metrics.ts";
import { models, oneModel } from "./models.ts";
import { props } from "./props.ts";
import { rerank } from "./rerank.ts";
import { cancelResponse, deleteResponse, getResponse, inputItems } from "./response.ts";
import { inputTokens, responses } from "./responses.ts";
import { detokenize, tokenize } from "./tokenize.ts";

/** The table of routes; every path is also answered below `/v1`. */
export const routes: readonly Route[] = [
  health,
  models,
  oneModel,
  chatCompletions,
  completions,
  embeddings,
  rerank,
  responses,
  inputTokens,
  getResponse,
  deleteResponse,
  cancelResponse,
  inputItems,
  messages,
  countTokens,
  status,
  events,
  activity,
  tokenize,
  detokenize,
  props,
  metrics,
];
