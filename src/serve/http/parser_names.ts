/** Names of the parsers of a chat format's answers, as the serving contract spells them. */
export function reasoningParserName(format: string): string {
  if (format === "harmony") return "gpt_oss_harmony";
  if (format === "gemma4") return "gemma4_thought_channel";
  return format === "qwen35" ? "qwen35_think_block" : format;
}

export function toolParserName(format: string): string {
  if (format === "harmony") return "gpt_oss_harmony";
  if (format === "gemma4") return "gemma4_tool_call_dict";
  return format === "qwen35" ? "qwen35_tool_call_tags" : format;
}
