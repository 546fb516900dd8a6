import type { GenerationParser, ParsedEvent } from "../models/chat/index.ts";
import type { Tokenizer } from "../models/tokenizer/tokenizer.ts";

/** Everything is content: what completions are read with. Control tokens show nothing. */
export function textParser(tokenizer: Tokenizer): GenerationParser {
  const decoder = tokenizer.streamDecoder();
  const content = (text: string): ParsedEvent[] => (text === "" ? [] : [{ type: "content", text }]);
  return {
    inContent: true,
    unparsed: 0,
    push: (token) => content(decoder.push(token)),
    finish: () => content(decoder.flush()),
  };
}
