/** Ops that are several in one launch or two: the bits of those, each of which has its own test against the CPU. */
import type { Pointer } from "bun:ffi";
import { describe, expect, test } from "bun:test";
import { type DType, dtypes, rowBytes } from "../../src/core/dtype.ts";
import { randomFloats, randomWeights } from "../cpu/library.ts";
import { ints } from "../cpu/twins.ts";
import { check, deviceBytes, floatsFromDevice, fromDevice, metal, onDevice, path } from "./library.ts";

/** An address some bytes further on. */
const at = (address: Pointer, bytes: number): Pointer => (Number(address) + bytes) as Pointer;

const [pageSize, maxPages, pages] = [16, 3, 7];

type Rotated = {
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly rotary: number;
  readonly neox: number;
  readonly type: DType;
};

describe.skipIf(!path)("rope_kv_write on Metal", () => {
  test.each<Rotated>([
    { heads: 4, kvHeads: 2, headDim: 64, rotary: 64, neox: 1, type: "f16" },
    { heads: 5, kvHeads: 1, headDim: 48, rotary: 32, neox: 0, type: "f32" },
    { heads: 3, kvHeads: 3, headDim: 96, rotary: 34, neox: 1, type: "q8_0" },
    { heads: 1, kvHeads: 1, headDim: 16, rotary: 2, neox: 0, type: "bf16" },
  ])("queries, keys and values as by rope, rope and kv_write: %o", (c) => {
    const { heads, kvHeads, headDim, rotary, neox, type } = c;
    const [tokens, mscale] = [5, 1.2];
    const width = kvHeads * headDim;
    const elements = width * pageSize;
    const pageBytes =
      type === "q8_0" ? elements + elements / 16 : elements * (dtypes[type].blockBytes as number);
    const [qStride, kStride, vStride] = [heads * headDim + 4, width + 8, width + 12];
    const rows = [
      randomFloats(tokens * qStride, 1),
      randomFloats(tokens * kStride, 2),
      randomFloats(tokens * vStride, 3),
    ] as const;
    const table = onDevice(ints([6, 2, 0, 1, 5, -1]));
    const at = [onDevice(ints([0, 1, 0, -1, 1])), onDevice(ints([0, 17, 33, 4, 40]))] as const;
    const frequencies = onDevice(randomFloats(rotary / 2, 4).map(Math.abs));
    const geometry = [kvHeads, headDim, pageSize, maxPages, dtypes[type].id] as const;
    const run = (fused: boolean) => {
      const [q, k, v] = [onDevice(rows[0]), onDevice(rows[1]), onDevice(rows[2])] as const;
      const caches = [deviceBytes(pages * pageBytes), deviceBytes(pages * pageBytes)] as const;
      if (fused) {
        check(
          metal.psi_rope_kv_write!(
            ...[q, ...caches, k, v, table, ...at, frequencies, tokens, qStride, 4, heads, kStride, 8],
            ...[vStride, 12, ...geometry, rotary, neox, mscale],
          ),
        );
        expect(floatsFromDevice(k, rows[1].length)).toEqual(rows[1]);
      } else {
        const turn = (x: typeof q, stride: number, offset: number, count: number) =>
          metal.psi_rope!(
            ...[x, at[1], frequencies, tokens, stride, offset, count, headDim, rotary, neox, mscale],
          );
        check(turn(q, qStride, 4, heads));
        check(turn(k, kStride, 8, kvHeads));
        check(
          metal.psi_kv_write!(...caches, k, v, table, ...at, tokens, kStride, 8, vStride, 12, ...geometry),
        );
      }
      return [
        fromDevice(q, rows[0].byteLength),
        ...caches.map((cache) => fromDevice(cache, pages * pageBytes)),
      ];
    };
    expect(run(true)).toEqual(run(false));
  });

  test("rows that do not hold their heads are refused", () => {
    const some = deviceBytes(4096);
    const call = (stride: number, rotary: number) =>
      check(
        metal.psi_rope_kv_write!(
          ...[some, some, some, some, some, some, some, some, some, 1, 64, 0, 2, stride, 0, 32, 0],
          ...[1, 32, pageSize, 1, 0, rotary, 1, 1],
        ),
      );
    expect(() => call(31, 32)).toThrow(/rope_kv_write.*inside rows/);
    expect(() => call(32, 33)).toThrow(/rotary/);
  });
});

describe.skipIf(!path)("add_norm_router on Metal", () => {
  test.each([
    [1, 516, 32, 4, 3, 0],
    [11, 600, 13, 2, 1, 1],
    [3, 1028, 40, 3, 2, 1],
  ])(
    "%i rows of %i, %i experts: as by add_rms_norm, matmul and router",
    (rows, width, experts, used, mode, bias) => {
      const [x, on, all] = [randomFloats(rows * width, 1), onDevice, 4 * rows * width];
      const [delta, norm] = [on(randomFloats(rows * width, 2)), on(randomFloats(width, 3))];
      const router = on(randomFloats(experts * width, 4));
      const biased = bias ? on(randomFloats(experts, 5)) : null;
      const run = (fused: boolean) => {
        const [sum, y] = [on(x), deviceBytes(all)];
        const [ids, chosen] = [deviceBytes(4 * rows * used), deviceBytes(4 * rows * used)];
        const choice = [rows, experts, used, mode, 1, 1.5] as const;
        if (fused) {
          check(
            metal.psi_add_norm_router!(
              ...[sum, y, ids, chosen, sum, delta, norm, router, biased, rows, width],
              ...[experts, used, mode, 1, 1e-5, 1.5],
            ),
          );
        } else {
          const logits = deviceBytes(4 * rows * experts);
          check(metal.psi_add_rms_norm!(sum, y, sum, delta, norm, rows, width, 1e-5));
          check(metal.psi_matmul!(logits, y, router, biased, null, rows, experts, width, 0, 0));
          check(metal.psi_router!(ids, chosen, logits, null, null, ...choice));
        }
        return [sum, y, ids, chosen].map((place, i) => fromDevice(place, 4 * rows * (i < 2 ? width : used)));
      };
      expect(run(true)).toEqual(run(false));
    },
  );

  test("experts whose logits do not fit into a row are refused", () => {
    const [some, y] = [deviceBytes(64), deviceBytes(64)];
    expect(() =>
      check(
        metal.psi_add_norm_router!(some, y, some, some, some, some, some, some, null, 1, 8, 9, 1, 1, 1, 0, 1),
      ),
    ).toThrow(/add_norm_router.*1 to 8 experts/);
  });
});

describe.skipIf(!path)("moe_glu on Metal", () => {
  test.each<[DType, number, number, number]>([
    ["mxfp4", 2, 2, 1],
    ["q8_0", 0, 11, 1],
    ["f16", 1, 40, 0],
    ["q4_k", 0, 2, 0],
  ])("%s, kind %i, %i tokens: as by moe_matmul and glu", (dtype, kind, tokens, biased) => {
    const [used, experts, features] = [2, 3, 16];
    const columns = dtype === "f16" ? 45 : Math.max(64, dtypes[dtype].blockElements);
    const size = experts * 2 * features * rowBytes(dtype, columns);
    const w = onDevice(randomWeights(dtype, experts * 2 * features, columns, 1).subarray(0, size));
    const bias = biased ? onDevice(randomFloats(experts * 2 * features, 2)) : null;
    const x = onDevice(randomFloats(tokens * columns, 3));
    const ids = onDevice(ints(Array.from({ length: tokens * used }, (_, i) => (i === 3 ? 9 : (i * 7) % 3))));
    const scratch = 4 * (tokens * used + 3 * experts + 16);
    const room = deviceBytes(scratch);
    const { id } = dtypes[dtype];
    const slots = tokens * used;
    const [fused, apart] = [deviceBytes(4 * slots * features), deviceBytes(4 * slots * features)];
    const both = deviceBytes(8 * slots * features);
    check(
      metal.psi_moe_glu!(
        ...[fused, x, w, bias, ids, room, tokens, used, experts, features, columns, id],
        ...[kind, 1.7, 2, scratch],
      ),
    );
    check(
      metal.psi_moe_matmul!(
        ...[both, x, w, bias, ids, room, tokens, used, experts, 2 * features, columns, id, 0, scratch],
      ),
    );
    check(
      metal.psi_glu!(
        ...[apart, both, at(both, 4 * features), slots, features, 2 * features, 2 * features],
        ...[kind, 1.7, 2],
      ),
    );
    // a NaN is one whatever its bits
    expect([...floatsFromDevice(fused, slots * features)]).toEqual([
      ...floatsFromDevice(apart, slots * features),
    ]);
  });

  test("an activation that is none is refused", () => {
    const some = deviceBytes(64);
    expect(() =>
      check(metal.psi_moe_glu!(some, some, some, null, some, null, 1, 1, 1, 16, 32, 0, 3, 0, 0, 0)),
    ).toThrow(/moe_glu.*kind/);
  });
});
