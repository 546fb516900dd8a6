import { checkedArguments } from "../terminal/arguments.ts";
import type { AnyCommand } from "../terminal/command.ts";
import { commandHelp } from "../terminal/help.ts";
import { print } from "../terminal/output.ts";
import type { OwnAction } from "./commands.ts";

/** A first word of a command that has options of its own: `psionic train watch`. */
export function ownAction(action: AnyCommand): OwnAction {
  return async (words) => {
    if (words.some((word) => word === "--help" || word === "-h")) {
      await print(commandHelp(action));
      return 0;
    }
    const { runCommand } = await import("citty");
    await runCommand(action, { rawArgs: checkedArguments(words, action.args) });
    return 0;
  };
}
