/**
 * Rows for which a step is recorded. Where calls are enqueued: 1, 2, 4, 8, then every 16; a smaller batch is filled up
 * with spare rows, which cost a device next to nothing, so that few recordings serve every number of sequences. Where
 * calls compute at once a spare row costs what a used one does and a recording nothing: the rows there are.
 */
export function rowBucket(rows: number, asynchronous: boolean): number {
  if (!asynchronous) return rows;
  if (rows > 8) return Math.ceil(rows / 16) * 16;
  return rows <= 2 ? rows : rows <= 4 ? 4 : 8;
}

const leastPages = 64;

/**
 * Pages per sequence for which a step is recorded: doubling from 64 up to `most`, so that a short context does not pay for
 * the launch shapes and the scratch of the longest.
 */
export function pageBucket(pages: number, most: number): number {
  let bucket = leastPages;
  while (bucket < pages) bucket *= 2;
  return Math.min(bucket, most);
}
