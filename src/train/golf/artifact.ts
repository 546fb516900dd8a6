/**
 * The model as it is submitted: quantised tensors under the baseline's names in one safetensors file, compressed whole.
 * A quantised matrix is `name` in I8 [rows, columns] and `name.scale` in F16 [rows].
 */
import { deflateSync, inflateSync } from "node:zlib";
import { sha256 } from "../../core/digest.ts";
import { unexpected } from "../../core/error.ts";
import { memorySource } from "../../models/files/bytes.ts";
import { parseSafetensors } from "../../models/files/safetensors.ts";
import { type Parameters, part } from "../parameters.ts";
import { dequantized, type ExportedTensor, quantized, type StoredTensor } from "./quantize.ts";
import type { Compression, Quantization } from "./settings.ts";

/** Vectors of ours that the baseline has as rows of one tensor. */
const stacked = /^(.*(?:resid_mix|skip_weights))\.(\d+)$/;

/** All parameters, as the baseline names and stacks them. */
export function exportedTensors(parameters: Parameters): ExportedTensor[] {
  const rows = new Map<string, { readonly shape: readonly number[]; readonly values: Float32Array }[]>();
  for (const place of parameters.places) {
    const { name, shape } = place.spec;
    const values = parameters.device.downloadF32(part(parameters.values, place, [place.count]));
    const [, joined, row] = stacked.exec(name) ?? [];
    if (joined === undefined) rows.set(name, [{ shape, values }]);
    else {
      const list = rows.get(joined) ?? [];
      list[Number(row)] = { shape: [1, ...shape], values };
      rows.set(joined, list);
    }
  }
  return [...rows]
    .map(([name, list]) => {
      const values = new Float32Array(list.reduce((sum, r) => sum + r.values.length, 0));
      let at = 0;
      for (const row of list) {
        values.set(row.values, at);
        at += row.values.length;
      }
      const [first] = list;
      const shape = stacked.test(`${name}.0`) ? [list.length, ...first!.shape.slice(1)] : first!.shape;
      return { name, shape, values };
    })
    .sort((a, b) => (a.name < b.name ? -1 : 1));
}

/** Puts values under the baseline's names into the parameters; what is missing, too much or of another size is refused. */
export function loadExported(
  parameters: Parameters,
  tensors: ReadonlyMap<string, Float32Array>,
  where: string,
): void {
  const used = new Set<string>();
  for (const place of parameters.places) {
    const { name } = place.spec;
    const [, joined, row] = stacked.exec(name) ?? [];
    const found = tensors.get(joined ?? name);
    const from = Number(row ?? 0) * place.count;
    const values = found?.subarray(from, from + place.count);
    if (values?.length !== place.count || (joined === undefined && found!.length !== place.count))
      throw unexpected(
        "file_malformed",
        where,
        `${place.count} numbers as ${name}`,
        found ? "others" : "none",
      );
    used.add(joined ?? name);
    parameters.device.upload(part(parameters.values, place, [place.count]), values.slice());
  }
  if (used.size !== tensors.size)
    throw unexpected("file_malformed", where, `${used.size} tensors of the model`, tensors.size);
  parameters.refresh();
}

type Entry = {
  readonly name: string;
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly bytes: Uint8Array;
};

const bytesOf = (a: ArrayBufferView): Uint8Array => new Uint8Array(a.buffer, a.byteOffset, a.byteLength);

function entriesOf({ name, shape }: ExportedTensor, stored: StoredTensor): Entry[] {
  if (stored.kind !== "i8")
    return [{ name, shape, dtype: stored.kind === "f16" ? "F16" : "F32", bytes: bytesOf(stored.values) }];
  const { values, scales } = stored;
  return [
    { name, shape, dtype: "I8", bytes: bytesOf(values) },
    { name: `${name}.scale`, shape: [scales.length], dtype: "F16", bytes: bytesOf(scales) },
  ];
}

/** The safetensors file before it is compressed. */
export function containerOf(tensors: readonly ExportedTensor[], quantization: Quantization): Uint8Array {
  const entries = tensors.flatMap((t) => entriesOf(t, quantized(t, quantization)));
  const header: Record<string, unknown> = { __metadata__: { format: quantization } };
  let end = 0;
  for (const { name, dtype, shape, bytes } of entries) {
    header[name] = { dtype, shape, data_offsets: [end, end + bytes.length] };
    end += bytes.length;
  }
  const text = JSON.stringify(header);
  const head = new TextEncoder().encode(text.padEnd(Math.ceil((text.length + 8) / 8) * 8 - 8));
  const length = bytesOf(BigUint64Array.of(BigInt(head.length)));
  return Buffer.concat([length, head, ...entries.map(({ bytes }) => bytes)]);
}

/** Tensors of a container by the baseline's names, dequantised. */
export function tensorsOfContainer(container: Uint8Array, where: string): ReadonlyMap<string, Float32Array> {
  const source = memorySource(where, container);
  const records = parseSafetensors(source);
  const read = (offset: number, bytes: number): ArrayBuffer => {
    const data = new Uint8Array(bytes);
    source.read(offset, data);
    return data.buffer;
  };
  const out = new Map<string, Float32Array>();
  for (const [name, { dtype, shape, offset, bytes }] of records) {
    if (records.has(name.replace(/\.scale$/, "")) && name.endsWith(".scale")) continue;
    const data = read(offset, bytes);
    if (dtype === "f32") out.set(name, new Float32Array(data));
    else if (dtype === "f16") out.set(name, dequantized({ kind: "f16", values: new Float16Array(data) }));
    else if (dtype === "i8") {
      const scale = records.get(`${name}.scale`);
      const rows = shape.length === 2 ? shape[0]! : 1;
      if (scale?.dtype !== "f16" || scale.bytes !== 2 * rows)
        throw unexpected("file_malformed", where, `${rows} f16 scales of ${name}`, scale ? "others" : "none");
      const scales = new Float16Array(read(scale.offset, scale.bytes));
      out.set(name, dequantized({ kind: "i8", values: new Int8Array(data), scales }));
    } else throw unexpected("file_malformed", where, "tensors of f32, f16 and i8", `${dtype} ${name}`);
  }
  return out;
}

const strongest = { zlib: 9, zstd: 22 } as const;

export function compressed(container: Uint8Array, compression: Compression): Uint8Array {
  return compression === "zlib"
    ? deflateSync(container, { level: strongest.zlib })
    : Bun.zstdCompressSync(container, { level: strongest.zstd });
}

const zstdMagic = [0x28, 0xb5, 0x2f, 0xfd];

/** Of either kind, told by its first bytes. */
export function decompressed(artifact: Uint8Array, where: string): Uint8Array {
  const isZstd = zstdMagic.every((byte, i) => artifact[i] === byte);
  try {
    return isZstd ? Bun.zstdDecompressSync(artifact) : inflateSync(artifact);
  } catch (cause) {
    // the rest of a zlib header varies with its settings
    const known = isZstd || artifact[0] === 0x78;
    const got = known ? "one that is damaged or was cut off" : "another file";
    throw unexpected("file_malformed", where, "a model compressed by zlib or zstd", got, { cause });
  }
}

export type Artifact = {
  readonly quantization: Quantization;
  readonly compression: Compression;
  readonly bytes: Uint8Array;
  readonly sha256: string;
};

export function artifactOf(
  container: Uint8Array,
  quantization: Quantization,
  compression: Compression,
): Artifact {
  const bytes = compressed(container, compression);
  return { quantization, compression, bytes, sha256: sha256(bytes) };
}

export const artifactName = ({ compression }: Pick<Artifact, "compression">): string =>
  `final_model.int8.${compression === "zlib" ? "ptz" : "zst"}`;
