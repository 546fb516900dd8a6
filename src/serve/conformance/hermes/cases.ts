import type { LoopOptions, LoopOutcome } from "./loop.ts";
import { getParisWeather, getTokyoWeather, getWeather, type LoopTool } from "./tools.ts";

export type CaseId =
  | "required_tool_turn"
  | "auto_plain_text_turn"
  | "multi_turn_tool_loop"
  | "parallel_tool_turn"
  | "invalid_argument_truthful_refusal"
  | "streamed_tool_turn"
  | "serialized_two_city_tool_loop";

/** A conversation and what must come of it. */
export type Case = {
  readonly id: CaseId;
  readonly loop: LoopOptions;
  readonly passes: (outcome: LoopOutcome) => boolean;
  /** What `passes` asks for, in words. */
  readonly condition: string;
};

const system = { role: "system", content: "You are a helpful agent. State only what the tools return." };
const exactly = "Paris is sunny at 18C. Tokyo is rainy at 12C.";
const both = [getParisWeather, getTokyoWeather] as const;

function asked(content: string) {
  return [system, { role: "user", content }];
}

/** A call is required until a tool has returned something. */
function requiredThen(
  after: "auto" | "none",
  tools: readonly LoopTool[],
  parallel?: boolean,
): LoopOptions["offer"] {
  return (results) => ({
    tools,
    choice: results.size === 0 ? "required" : after,
    ...(parallel === undefined ? {} : { parallel }),
  });
}

const firstTurn = ({ toolTurns }: LoopOutcome): string =>
  toolTurns[0]?.map(({ name }) => name).join(" ") ?? "";

export const requiredToolTurn: Case = {
  id: "required_tool_turn",
  loop: { messages: asked("What is the weather in Paris?"), offer: requiredThen("auto", [getWeather]) },
  condition: "the first tool turn is one call of get_weather",
  passes: (outcome) => firstTurn(outcome) === "get_weather",
};

export const autoPlainTextTurn: Case = {
  id: "auto_plain_text_turn",
  loop: {
    messages: asked("Say hello in one short sentence. No tool is needed."),
    offer: () => ({ tools: [getWeather], choice: "auto" }),
  },
  condition: "no call, and a text",
  passes: ({ toolTurns, finalResponse }) => toolTurns.length === 0 && finalResponse.trim() !== "",
};

export const multiTurnToolLoop: Case = {
  id: "multi_turn_tool_loop",
  loop: {
    messages: asked("Look up the weather in Paris, then tell me about it in one sentence."),
    offer: requiredThen("auto", [getWeather]),
  },
  condition: "a tool result, and a final text that mentions Paris",
  passes: ({ toolResults, finalResponse }) => toolResults.length > 0 && /paris/i.test(finalResponse),
};

export const parallelToolTurn: Case = {
  id: "parallel_tool_turn",
  loop: {
    messages: asked(
      "Call `get_paris_weather` and `get_tokyo_weather` in the same turn. When both have answered, reply with exactly " +
        `this and nothing else: ${exactly}`,
    ),
    offer: requiredThen("none", both, true),
  },
  condition: `one turn with both calls in order, both results, and the text ${exactly}`,
  passes: (outcome) =>
    firstTurn(outcome) === "get_paris_weather get_tokyo_weather" &&
    outcome.toolResults.length === 2 &&
    outcome.finalResponse.trim() === exactly,
};

export const invalidArgument: Case = {
  id: "invalid_argument_truthful_refusal",
  loop: {
    messages: asked("What is the weather in Atlantis? If the tool has none, say what it said."),
    offer: requiredThen("auto", [getWeather]),
  },
  condition: "a final text that mentions Atlantis and says unsupported, error or cannot",
  passes: ({ finalResponse }) =>
    /atlantis/i.test(finalResponse) && /unsupported|error|cannot/i.test(finalResponse),
};

export const streamedToolTurn: Case = {
  id: "streamed_tool_turn",
  loop: {
    messages: asked("What is the weather in Tokyo?"),
    offer: requiredThen("auto", [getWeather]),
    stream: true,
  },
  condition: "a streamed request and a tool turn",
  passes: ({ requests, toolTurns }) => requests.some(({ stream }) => stream) && toolTurns.length > 0,
};

/** Longest time for the sentence that ends the serialized case, milliseconds. */
export const summaryMs = 60_000;

export const serializedTwoCity: Case = {
  id: "serialized_two_city_tool_loop",
  loop: {
    messages: asked(`Call the tool you are offered. When none is left, reply with exactly this: ${exactly}`),
    offer: (results) => {
      const next = both.find(({ name }) => !results.has(name));
      return next ? { tools: [next], choice: "required", parallel: false } : { tools: [] };
    },
    summaryMs,
  },
  condition: `one call a turn, then within ${summaryMs / 1000} s the text ${exactly}`,
  passes: ({ toolTurns, finalResponse }) =>
    toolTurns.length === 2 &&
    toolTurns.every((turn) => turn.length === 1) &&
    finalResponse.trim() === exactly,
};

/** The six of the compatibility checker. */
export const compatibilityCases: readonly Case[] = [
  requiredToolTurn,
  autoPlainTextTurn,
  multiTurnToolLoop,
  parallelToolTurn,
  invalidArgument,
  streamedToolTurn,
];

/** The five of the backend benchmark. */
export const benchmarkCases: readonly Case[] = [
  autoPlainTextTurn,
  requiredToolTurn,
  multiTurnToolLoop,
  streamedToolTurn,
  serializedTwoCity,
];
