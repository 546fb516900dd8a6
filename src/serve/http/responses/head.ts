import { samplingSettings } from "../../engine/sampling_settings.ts";
import type { ServerState } from "../context.ts";
import type { PlannedAnswer } from "../conversation.ts";
import type { ServedModel } from "../options.ts";
import type { Continued } from "./conversation.ts";
import type { Item } from "./input.ts";
import type { ResponseFields } from "./request.ts";

type Facts = {
  readonly model: ServedModel;
  readonly body: ResponseFields;
  readonly name: string;
  readonly id: string;
  readonly continued: Continued;
  readonly planned: PlannedAnswer;
};

/** Members of an answer that are known before it is made: what was asked, with defaults filled in. */
export function responseHead(state: ServerState, facts: Facts, stored: boolean): Item {
  const { body, name, id, continued, planned, model } = facts;
  const { vocabularySize } = model.engine.info.model;
  const sampling = samplingSettings(planned.plan.request.sampling, vocabularySize);
  return {
    id,
    object: "response",
    created_at: Math.floor(Date.now() / 1000),
    background: false,
    instructions: continued.instructions,
    max_output_tokens: body.max_output_tokens ?? null,
    max_tool_calls: body.max_tool_calls ?? null,
    model: name,
    parallel_tool_calls: body.parallel_tool_calls ?? true,
    previous_response_id: continued.previous?.id ?? null,
    conversation: stored ? { id: continued.conversation } : null,
    prompt_cache_key: body.prompt_cache_key ?? null,
    reasoning: { effort: planned.effort ?? null, summary: null },
    safety_identifier: body.safety_identifier ?? null,
    service_tier: "default",
    store: stored,
    temperature: sampling.greedy ? 0 : sampling.temperature,
    text: { format: body.text?.format ?? { type: "text" }, verbosity: "medium" },
    tool_choice: body.tool_choice ?? "auto",
    tools: body.tools ?? [],
    top_logprobs: planned.plan.request.topLogprobs ?? 0,
    top_p: sampling.greedy ? 1 : sampling.topP,
    presence_penalty: sampling.presencePenalty,
    frequency_penalty: sampling.frequencyPenalty,
    truncation: "disabled",
    user: body.user ?? null,
    metadata: body.metadata ?? {},
    psionic_response_state: stateOf(state, continued, stored),
  };
}

function stateOf({ responses }: ServerState, continued: Continued, stored: boolean): object {
  const { previous, input, conversation } = continued;
  const replayed = previous?.messages.length ?? 0;
  return {
    storage: "memory_only",
    retention_scope: "process_lifetime",
    cache_behavior: "prompt_replay_only",
    stored,
    continuation: "append_turn",
    ...(previous ? { previous_response_id: previous.id } : {}),
    ...(stored ? { conversation_id: conversation } : {}),
    replayed_prompt_messages: replayed,
    input_messages_appended: input.messages.length,
    max_responses: responses.limits.responses,
    max_conversations: responses.limits.conversations,
    conversation_item_count: replayed + input.messages.length,
  };
}
