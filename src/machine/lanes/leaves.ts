/** Every value of a document by its path, as text, so that two can be held against each other. */
export function leaves(value: unknown, path = ""): Map<string, string> {
  if (typeof value !== "object" || value === null) return new Map([[path, String(value)]]);
  return new Map(
    Object.entries(value).flatMap(([key, member]) => [
      ...leaves(member, path === "" ? key : `${path}.${key}`),
    ]),
  );
}
