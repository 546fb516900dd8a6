import type { GenerationParser, ParsedEvent } from "../models/chat/index.ts";

/** What stands around reasoning when it is part of the content. */
export type ReasoningMarks = { readonly open: string; readonly close: string };

/** Reasoning becomes content between marks: what clients get that ask for it unseparated. */
export function inlineReasoning(parser: GenerationParser, marks: ReasoningMarks): GenerationParser {
  let open = false;
  let hasText = false;
  const inline = (events: readonly ParsedEvent[]): ParsedEvent[] => {
    const out = events.flatMap((event): ParsedEvent[] => {
      const reasoning = event.type === "reasoning";
      const mark = reasoning === open ? "" : open ? marks.close : marks.open;
      open = reasoning;
      if (event.type !== "toolCall") return [{ type: "content", text: mark + event.text }];
      return mark === "" ? [event] : [{ type: "content", text: mark }, event];
    });
    hasText = out.length > 0;
    return out;
  };
  return {
    push: (token) => inline(parser.push(token)),
    finish: (stopToken) => {
      const out = inline(parser.finish(stopToken));
      if (open) out.push({ type: "content", text: marks.close });
      open = false;
      return out;
    },
    get inContent() {
      return parser.inContent || hasText;
    },
    get unparsed() {
      return parser.unparsed;
    },
    get region() {
      return parser.region;
    },
  };
}
