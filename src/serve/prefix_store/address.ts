import { canonicalJson } from "../../core/json.ts";

/** Everything besides tokens that the bits of a page depend on. */
export type StoreFacts = {
  /** `sha256:<hex>` of the model's content. */
  readonly model: string;
  /** An adapter: the digest of it bound to the model. */
  readonly adapter?: string;
  readonly library: string;
  readonly backend: string;
  readonly device: string;
  readonly numerics: string;
  readonly cacheType: string;
  readonly pageSize: number;
  /** Cache groups and recurrent states as they lie in a page. */
  readonly layout: unknown;
};

/** Address of the root: no page yet, of one tenant. */
export function rootAddress(facts: StoreFacts, tenant: string): string {
  return digest(`psionic prefix store 1\n${canonicalJson(facts)}\n${tenant}`);
}

/** Address of the page of `tokens` that follows the page at `before`: two prefixes meet only if all tokens are equal. */
export function nextAddress(before: string, tokens: Int32Array): string {
  const bytes = new Uint8Array(tokens.buffer, tokens.byteOffset, tokens.byteLength);
  return new Bun.CryptoHasher("sha256").update(before).update(bytes).digest("hex");
}

function digest(text: string): string {
  return new Bun.CryptoHasher("sha256").update(text).digest("hex");
}
