import type { ChatFormat } from "../../models/chat/index.ts";
import type { EngineInfo } from "../protocol.ts";
import { modelFacts } from "./model_card.ts";

/** What Codex sends as instructions when the catalogue, and not its own table, describes the model. */
const instructions =
  "You are a coding agent that works in a terminal, in the folder the user has opened. Look at the files before you " +
  "change them, make the smallest change that does what was asked, run what shows that it works, and say in a few " +
  "sentences what you did. Use the tools you are given; do not describe a command where you can run it.";

const levels = [
  { effort: "low", description: "Short reasoning, quick answers" },
  { effort: "medium", description: "Reasoning for everyday work" },
  { effort: "high", description: "Long reasoning for hard problems" },
] as const;

/** Most text of one command's output that Codex should keep, tokens; a share of the context where that is small. */
const outputTokens = 10_000;

/** An entry of the `models` array: the loaded model as Codex's catalogue describes one. */
export function codexModel(info: EngineInfo, chat: ChatFormat, defaultEffort: "low" | "medium" | "high") {
  const { name } = modelFacts(info);
  const readsEffort = chat.reads("reasoning_effort");
  const { contextLength } = info;
  return {
    slug: name,
    display_name: info.model.name === "" ? name : info.model.name,
    description: `${info.model.architecture}, ${info.model.quantization}, served by psionic on ${info.backend.backend}`,
    ...(readsEffort ? { default_reasoning_level: defaultEffort } : {}),
    supported_reasoning_levels: readsEffort ? levels : [],
    shell_type: chat.capabilities.tools ? "shell_command" : "disabled",
    visibility: "list",
    supported_in_api: true,
    priority: 0,
    upgrade: null,
    base_instructions: instructions,
    // the reasoning itself is streamed
    supports_reasoning_summaries: false,
    support_verbosity: false,
    default_verbosity: null,
    // Codex's patches are a tool with a grammar of its own, which is not served; files are edited by commands
    apply_patch_tool_type: null,
    truncation_policy: { mode: "tokens", limit: Math.min(outputTokens, Math.floor(contextLength / 4)) },
    supports_parallel_tool_calls: (chat.callEnds?.length ?? 0) > 0,
    context_window: contextLength,
    effective_context_window_percent: 95,
    experimental_supported_tools: [],
    input_modalities: ["text"],
  };
}
