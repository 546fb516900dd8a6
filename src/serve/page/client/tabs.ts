import { byId } from "./elements.ts";

const names = ["chat", "server"] as const;
export type TabName = (typeof names)[number];

/** The two views of the page; arrow keys go between them, as in every list of tabs. */
export class Tabs {
  private shown: TabName = "chat";
  private readonly onShow: (name: TabName) => void;

  constructor(onShow: (name: TabName) => void) {
    this.onShow = onShow;
    for (const name of names) {
      const tab = byId(`tab-${name}`);
      tab.addEventListener("click", () => this.show(name));
      tab.addEventListener("keydown", (event) => {
        if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
        event.preventDefault();
        this.show(this.other);
        byId(`tab-${this.shown}`).focus();
      });
    }
  }

  get current(): TabName {
    return this.shown;
  }

  get other(): TabName {
    return this.shown === "chat" ? "server" : "chat";
  }

  show(shown: TabName): void {
    this.shown = shown;
    for (const name of names) {
      const tab = byId(`tab-${name}`);
      tab.ariaSelected = String(name === shown);
      tab.tabIndex = name === shown ? 0 : -1;
      byId(`panel-${name}`).hidden = name !== shown;
    }
    this.onShow(shown);
  }
}
