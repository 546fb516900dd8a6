/**
 * Waits for the first event for at most `graceMs`, so that a request that is refused at once gets its own status, and
 * one that must wait gets its headers. Gives the same events.
 */
export async function begin<T>(events: AsyncIterator<T>, graceMs: number): Promise<AsyncIterable<T>> {
  const first = events.next();
  let timer: ReturnType<typeof setTimeout> | undefined;
  const grace = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, graceMs);
  });
  try {
    await Promise.race([first, grace]);
  } finally {
    clearTimeout(timer);
  }
  // An error after the grace reaches whoever takes the first event.
  first.catch(() => {});
  return withFirst(first, events);
}

async function* withFirst<T>(
  first: Promise<IteratorResult<T>>,
  rest: AsyncIterator<T>,
): AsyncGenerator<T, void, void> {
  try {
    for (let item = await first; !item.done; item = await rest.next()) yield item.value;
  } finally {
    await rest.return?.();
  }
}
