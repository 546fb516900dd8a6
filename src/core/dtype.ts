/**
 * Element and block types. Quantised block formats are dtypes; ids are ggml's (GGUF tensor type ids), since files
 * carry them and the C ABI uses the same numbers.
 */
export const dtypes = {
  f32: { id: 0, blockElements: 1, blockBytes: 4 },
  f16: { id: 1, blockElements: 1, blockBytes: 2 },
  q4_0: { id: 2, blockElements: 32, blockBytes: 18 },
  q4_1: { id: 3, blockElements: 32, blockBytes: 20 },
  q5_0: { id: 6, blockElements: 32, blockBytes: 22 },
  q5_1: { id: 7, blockElements: 32, blockBytes: 24 },
  q8_0: { id: 8, blockElements: 32, blockBytes: 34 },
  q2_k: { id: 10, blockElements: 256, blockBytes: 84 },
  q3_k: { id: 11, blockElements: 256, blockBytes: 110 },
  q4_k: { id: 12, blockElements: 256, blockBytes: 144 },
  q5_k: { id: 13, blockElements: 256, blockBytes: 176 },
  q6_k: { id: 14, blockElements: 256, blockBytes: 210 },
  iq4_nl: { id: 20, blockElements: 32, blockBytes: 18 },
  iq4_xs: { id: 23, blockElements: 256, blockBytes: 136 },
  i32: { id: 26, blockElements: 1, blockBytes: 4 },
  f64: { id: 28, blockElements: 1, blockBytes: 8 },
  bf16: { id: 30, blockElements: 1, blockBytes: 2 },
  mxfp4: { id: 39, blockElements: 32, blockBytes: 17 },
  // e4m3; psionic's own id: caches have it, files do not
  fp8: { id: 200, blockElements: 1, blockBytes: 1 },
} as const satisfies Record<string, { id: number; blockElements: number; blockBytes: number }>;

export type DType = keyof typeof dtypes;

/** Types that tensors of files may have. */
export const fileTypes = (Object.keys(dtypes) as DType[]).filter((dtype) => dtype !== "fp8");

const byId = new Map<number, DType>(fileTypes.map((name) => [dtypes[name].id, name]));

/** A type of a file's tensors by its id. */
export function dtypeFromId(id: number): DType | undefined {
  return byId.get(id);
}

/** Names of ggml types we know of and decline, for messages. */
export const declinedTypeNames: ReadonlyMap<number, string> = new Map([
  [9, "Q8_1"],
  [15, "Q8_K"],
  [16, "IQ2_XXS"],
  [17, "IQ2_XS"],
  [18, "IQ3_XXS"],
  [19, "IQ1_S"],
  [21, "IQ3_S"],
  [22, "IQ2_S"],
  [24, "I8"],
  [25, "I16"],
  [27, "I64"],
  [29, "IQ1_M"],
  [34, "TQ1_0"],
  [35, "TQ2_0"],
  [40, "NVFP4"],
  [41, "Q1_0"],
  [42, "Q2_0"],
]);

export function isQuantised(dtype: DType): boolean {
  return dtypes[dtype].blockElements > 1;
}

/** Bytes of one row of `columns` elements; `columns` must be a multiple of the block length. */
export function rowBytes(dtype: DType, columns: number): number {
  const d = dtypes[dtype];
  return (columns / d.blockElements) * d.blockBytes;
}
