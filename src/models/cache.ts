import { rowBytes } from "../core/dtype.ts";
import { elementCount } from "../core/shape.ts";
import type { Device } from "../runtime/device.ts";
import type { CacheGroup, CachePool, CacheType } from "./model.ts";

/** Positions of a page: two tiles of the key layout; small enough that a resumed chat re-reads little. */
export const pageSize = 32;

/** Bytes of one page of one layer, keys or values (ffi/psionic.h, "Paged cache"). */
export function pageBytes(group: CacheGroup, cacheType: CacheType): number {
  return rowBytes(cacheType, group.headDim) * group.kvHeads * pageSize;
}

/** Bytes of a page over all layers of its group, keys and values. */
export function groupPageBytes(group: CacheGroup, cacheType: CacheType): number {
  return 2 * group.layers.length * pageBytes(group, cacheType);
}

/** Allocates `pageCount` pages for every layer of a group; free with `freeCachePool`. */
export function makeCachePool(
  device: Device,
  group: CacheGroup,
  cacheType: CacheType,
  pageCount: number,
): CachePool {
  const shape = [pageCount, group.kvHeads * pageSize, group.headDim];
  elementCount(shape);
  const make = () => group.layers.map(() => device.empty(cacheType, shape));
  return { group, cacheType, pageSize, pageCount, keys: make(), values: make() };
}

export function freeCachePool(device: Device, pool: CachePool): void {
  for (const t of [...pool.keys, ...pool.values]) device.free(t);
}
