const prefix = "psionic-reasoning-1:";

/**
 * Reasoning in the form of `encrypted_content`. Agents that keep no state here send that back inside a tool loop, and
 * nothing else of the reasoning. It hides nothing: the same answer has the text beside it.
 */
export function sealReasoning(text: string): string {
  return prefix + Buffer.from(text, "utf8").toString("base64");
}

/** The text of `sealReasoning`, or undefined for what another server sealed. */
export function openReasoning(sealed: string): string | undefined {
  if (!sealed.startsWith(prefix)) return undefined;
  return Buffer.from(sealed.slice(prefix.length), "base64").toString("utf8");
}
