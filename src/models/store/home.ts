import { homedir } from "node:os";
import { join } from "node:path";

/** Folder of pulled models and of the register of running servers: PSIONIC_HOME, else the user's data folder. */
export function psionicHome(): string {
  const asked = process.env.PSIONIC_HOME;
  if (asked) return asked;
  if (process.platform === "darwin") return join(homedir(), "Library", "Application Support", "psionic");
  return join(process.env.XDG_DATA_HOME || join(homedir(), ".local", "share"), "psionic");
}
