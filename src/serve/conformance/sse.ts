/** One event of a stream as a client's reader sees it. */
export type SseEvent = {
  /** The `event:` field; empty where there is none. */
  readonly name: string;
  readonly data: string;
};

/** The events of a whole stream by the rules of the HTML standard; comments and empty events are none. */
export function sseEvents(text: string): SseEvent[] {
  const events: SseEvent[] = [];
  for (const block of text.split(/\r\n\r\n|\n\n|\r\r/)) {
    let name = "";
    const data: string[] = [];
    for (const line of block.split(/\r\n|\n|\r/)) {
      const [, field, value = ""] = /^([^:]*):? ?(.*)$/.exec(line) ?? [];
      if (field === "event") name = value;
      else if (field === "data") data.push(value);
    }
    if (data.length > 0) events.push({ name, data: data.join("\n") });
  }
  return events;
}

/** The comments of a stream, which keep a connection open. */
export function sseComments(text: string): string[] {
  return text.split(/\r\n|\n|\r/).filter((line) => line.startsWith(":"));
}
