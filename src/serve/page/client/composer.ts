import { byId } from "./elements.ts";

const largestHeightPx = 220;

/** The box for messages: Enter sends, Shift+Enter begins a line. */
export class Composer {
  private readonly box = byId<HTMLTextAreaElement>("message");
  private readonly send = byId<HTMLButtonElement>("send");
  private readonly stop = byId<HTMLButtonElement>("stop");
  private readonly onSend: (text: string) => void;
  private writing = false;
  private ready = false;

  constructor(onSend: (text: string) => void, onStop: () => void) {
    this.onSend = onSend;
    byId<HTMLFormElement>("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.submit();
    });
    this.stop.addEventListener("click", () => {
      onStop();
      this.focus();
    });
    this.box.addEventListener("input", () => this.fit());
    this.box.addEventListener("keydown", (event) => {
      // while an input method composes, Enter chooses a word
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.submit();
    });
    this.fit();
  }

  focus(): void {
    this.box.focus();
  }

  /** Puts text into the box, ready to be changed. */
  edit(text: string): void {
    this.box.value = text;
    this.fit();
    this.focus();
    this.box.setSelectionRange(text.length, text.length);
  }

  setWriting(writing: boolean): void {
    const focused = document.activeElement;
    this.writing = writing;
    this.stop.hidden = !writing;
    this.send.hidden = writing;
    this.fit();
    // what had the focus may just have gone
    if (focused === this.send || focused === this.stop || focused === document.body) this.focus();
  }

  /** Whether there is a model to ask. */
  setReady(ready: boolean): void {
    this.ready = ready;
    this.fit();
  }

  private submit(): void {
    const text = this.box.value.trim();
    if (text === "" || this.writing || !this.ready) return;
    this.box.value = "";
    this.fit();
    this.onSend(text);
  }

  private fit(): void {
    this.send.disabled = this.box.value.trim() === "" || !this.ready;
    this.box.style.height = "auto";
    this.box.style.height = `${Math.min(this.box.scrollHeight, largestHeightPx)}px`;
  }
}
