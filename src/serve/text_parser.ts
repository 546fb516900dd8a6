import type { Tokenizer } from "../models/tokenizer/tokenizer.ts";
import type { GenerationParser, ParsedEvent } from "./chat.ts";

/** Everything is content: for completions, and for chat answers that are asked for raw. */
export function textParser(tokenizer: Tokenizer, options: { readonly special: boolean }): GenerationParser {
  const decoder = tokenizer.streamDecoder({ special: options.special });
  const content = (text: string): ParsedEvent[] => (text === "" ? [] : [{ type: "content", text }]);
  return {
    inContent: true,
    unparsed: 0,
    push: (token) => content(decoder.push(token)),
    finish: () => content(decoder.flush()),
  };
}
