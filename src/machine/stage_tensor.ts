/** What crosses between stages in a step: an envelope, the document that describes the numbers, and the numbers, zstd. */
import { sha256 } from "../core/digest.ts";
import { compressZstd, decompressZstd, zstdContentBytes } from "../core/zstd.ts";
import { refuse } from "./contract.ts";
import { type Content, document, sealed } from "./documents.ts";
import { count, digest, exactly, filled, listOf, maybe, oneOf, orNull, positive, str } from "./fields.ts";
import { fileBytes } from "./run_root.ts";

/** Payload of a numbered envelope. Numbers are 32-bit floats, little-endian, row by row. */
export const stageTensor = document(
  "psionic.train.grouped_replica_stage_tensor.v1",
  {
    lane_id: filled,
    run_id: filled,
    window_id: filled,
    assignment_id: filled,
    replica_id: filled,
    /** Who made it. */
    stage_id: filled,
    node_pubkey: filled,
    step: count,
    kind: oneOf(["activation", "gradient"]),
    rows: positive,
    width: positive,
    dtype: exactly("f32"),
    /** Of the numbers themselves. */
    content_sha256: digest,
    content_bytes: count,
    /** Of the file beside this document. */
    tensor_path: filled,
    tensor_sha256: digest,
    tensor_bytes: count,
    /** Of a gradient: the content of the activation that it belongs to. */
    answers: orNull(digest),
    /** Of a gradient: the step's loss as the last stage saw it, a 32-bit float. */
    loss: orNull(str),
    /** Of a gradient where the norm is limited: sums of squares of the maker's gradients and the later stages', 64-bit floats. */
    square_sums: maybe(listOf(str)),
    lane_profile_digest: digest,
    detail: str,
    tensor_digest: str,
  },
  { field: "tensor_digest", prefix: "psionic_train_grouped_stage_tensor|" },
);
export type StageTensor = Content<typeof stageTensor>;

/** Largest tensor that passes between stages, bytes. */
export const largestTensor = 2 ** 30;

type Derived = "rows" | "width" | "dtype" | `content_${"sha256" | "bytes"}` | `tensor_${"sha256" | "bytes"}`;
export type TensorFields = Omit<StageTensor, Derived | "schema_version" | "tensor_digest">;

const bytesOf = (values: Float32Array): Uint8Array =>
  new Uint8Array(values.buffer, values.byteOffset, values.byteLength);

/** SHA-256 of numbers as they cross. */
export const contentDigest = (values: Float32Array): string => sha256(bytesOf(values));

/** The document and the bytes of the file beside it. */
export function packTensor(
  fields: TensorFields,
  [rows, width]: readonly [number, number],
  values: Float32Array,
): { readonly doc: StageTensor; readonly file: Uint8Array } {
  const content = bytesOf(values);
  const file = compressZstd(content);
  const doc = sealed(stageTensor, {
    ...fields,
    ...{ rows, width, dtype: "f32" },
    ...{ content_sha256: sha256(content), content_bytes: content.length },
    ...{ tensor_sha256: sha256(file), tensor_bytes: file.length },
  });
  return { doc, file };
}

/** A file of a tensor; `artifact_incomplete` where it is not there or cannot be read. */
export function tensorFile(path: string): Uint8Array {
  try {
    return fileBytes(path, largestTensor);
  } catch (cause) {
    return refuse("artifact_incomplete", cause instanceof Error ? cause.message : String(cause), cause);
  }
}

/** The numbers of a document from the file beside it; `artifact_digest_mismatch` where it is another. */
export function unpackTensor(doc: StageTensor, file: Uint8Array): Float32Array {
  const drift = (what: string): never =>
    refuse("artifact_digest_mismatch", `tensor of step ${doc.step}: ${what}`);
  if (file.length !== doc.tensor_bytes || sha256(file) !== doc.tensor_sha256)
    drift("the file is not the one that its document names");
  const bytes = BigInt(doc.rows) * BigInt(doc.width) * 4n;
  if (bytes > BigInt(largestTensor)) drift(`${bytes} bytes are more than pass between stages`);
  if (BigInt(doc.content_bytes) !== bytes || zstdContentBytes(file) !== bytes)
    drift("another size than its rows and width make");
  const content = decompressed(file) ?? drift("not a whole zstd frame");
  if (BigInt(content.length) !== bytes || sha256(content) !== doc.content_sha256) drift("other numbers");
  return new Float32Array(content.slice().buffer);
}

function decompressed(file: Uint8Array): Uint8Array | undefined {
  try {
    return decompressZstd(file);
  } catch {
    return undefined; // damaged; the caller says so with its class
  }
}
