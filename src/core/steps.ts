/**
 * Work in steps: between two of them it may be left and gone on with later. A step takes a millisecond or so, whatever the
 * input is, so that a thread with others to serve can do any amount of it.
 */
export type Steps<T> = Generator<void, T, void>;

/** All steps at once. */
export function runAll<T>(steps: Steps<T>): T {
  for (;;) {
    const { done, value } = steps.next();
    if (done) return value;
  }
}
