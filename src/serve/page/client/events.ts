/** The `data` of each event of a `text/event-stream` body; comments and other fields are passed over. */
export async function* eventData(body: ReadableStream<Uint8Array>): AsyncGenerator<string, void, void> {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let held = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      held += done ? decoder.decode() : decoder.decode(value, { stream: true });
      const lines = held.split(/\r\n|\n/);
      // a line may still grow, and so may a line break of two characters
      held = done ? "" : (lines.pop() ?? "");
      for (const line of lines) if (line.startsWith("data:")) yield line.slice(5).trimStart();
      if (done) return;
    }
  } finally {
    // leaving early closes the connection, which stops the server
    await reader.cancel().catch(() => {});
  }
}
