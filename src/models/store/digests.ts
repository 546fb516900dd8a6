/** SHA-256 as hex from the headers that hosts give it in, of the whole content (not of a range). */
export function wholeDigest(headers: Headers): string | undefined {
  const named = headers.get("x-linked-etag") ?? headers.get("x-checksum-sha256");
  const found = hexDigest(named) ?? hexDigest(headers.get("etag"));
  return (
    found ??
    listed(headers.get("repr-digest")) ??
    listed(headers.get("digest")) ??
    encoded(headers.get("x-amz-checksum-sha256"))
  );
}

/** SHA-256 of the bytes of this answer, where the host says it (RFC 9530). */
export function contentDigest(headers: Headers): string | undefined {
  return listed(headers.get("content-digest"));
}

/** What the host calls this version of the content: its entity tag without weakness mark and quotes, else its date. */
export function entityTag(headers: Headers): string | null {
  const tag = headers.get("x-linked-etag") ?? headers.get("etag") ?? headers.get("last-modified");
  return tag === null ? null : tag.replace(/^W\//, "").replace(/^"|"$/g, "");
}

function hexDigest(value: string | null): string | undefined {
  return /^"?(?:sha256:)?([0-9a-fA-F]{64})"?$/.exec(value ?? "")?.[1]?.toLowerCase();
}

/** `sha-256=:BASE64:`, or the older `SHA-256=BASE64`, among others. */
function listed(value: string | null): string | undefined {
  const match = /(?:^|[,\s])sha-256=:?([A-Za-z0-9+/]{43}=):?/i.exec(value ?? "");
  return encoded(match?.[1] ?? null);
}

function encoded(value: string | null): string | undefined {
  if (value === null || !/^[A-Za-z0-9+/]{43}=$/.test(value)) return undefined;
  return Buffer.from(value, "base64").toString("hex");
}
