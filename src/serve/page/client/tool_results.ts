import type { ToolCall, ToolTurn } from "./conversation.ts";
import { element } from "./elements.ts";

/** A form in which the person gives what the called tools would have answered. */
export function resultForm(
  calls: readonly ToolCall[],
  send: (results: readonly ToolTurn[]) => void,
): HTMLElement {
  const areas = calls.map(() => element("textarea", { rows: "2", spellcheck: "false" }));
  const form = element(
    "form",
    { class: "turn results", "aria-label": "Results of the called tools" },
    ...areas.map((area, i) => element("label", {}, `Result of ${calls[i]!.name}`, area)),
    element("button", { class: "button strong", type: "submit" }, "Send results"),
  );
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    send(
      areas.map((area, i) => ({
        role: "tool",
        callId: calls[i]!.id,
        name: calls[i]!.name,
        text: area.value,
      })),
    );
  });
  return form;
}
