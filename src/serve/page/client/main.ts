/** The page of `psionic serve`: wires its parts together. Everything it shows comes from the server's own API. */
import { ApiError } from "./api.ts";
import { Chat } from "./chat.ts";
import { Composer } from "./composer.ts";
import { byId } from "./elements.ts";
import { bytes, percent, rate } from "./format.ts";
import { KeyDialog } from "./key_dialog.ts";
import { Live, type LiveState } from "./live.ts";
import { ModelsView } from "./models_view.ts";
import { ServerView } from "./server_view.ts";
import { SettingsView } from "./settings_view.ts";
import { Tabs } from "./tabs.ts";

const announcer = byId("announcer");
const notice = byId("notice");

const keys = new KeyDialog();
const settings = new SettingsView(() => void askKey("The key is forgotten. Give one to go on."));
const server = new ServerView();
const models = new ModelsView((card, all) => {
  composer.setReady(card !== undefined);
  settings.showEffort(card?.capabilities?.includes("reasoning") ?? false);
  server.showModels(all);
});
const chat: Chat = new Chat({
  settings: () => settings.current,
  model: () => models.current?.id ?? "",
  waiting: () => (models.isLoaded ? "Reading the prompt" : "Loading the model"),
  announce: (text) => {
    announcer.textContent = text;
  },
  onWriting: (writing) => {
    composer.setWriting(writing);
    live.ask();
    // the answer may have loaded its model
    if (!writing && !models.isLoaded) void loadModels();
  },
  edit: (text) => composer.edit(text),
  askKey,
});
const composer: Composer = new Composer(
  (text) => chat.send(text),
  () => chat.stop(),
);
const tabs = new Tabs((name) => {
  if (name === "chat" && matchMedia("(pointer: fine)").matches) composer.focus();
  if (name !== "server") return;
  if (lately) server.update(lately);
  void loadModels();
});
const live: Live = new Live({ onState: showLive, onReach });

let lately: LiveState | undefined;

function showLive(state: LiveState): void {
  lately = state;
  chat.addTimes(state.requests);
  const { load, samples } = state;
  const last = samples.at(-1);
  const { hit_rate: hits } = load.prefix_cache;
  show("live-speed", last ? rate(last.completion_tokens_per_second) : "–");
  show("live-running", String(load.active));
  show("live-queued", String(load.queued));
  show("live-cache", hits === null ? "–" : percent(hits));
  show("live-memory", bytes(load.memory.device_bytes || load.memory.resident_bytes));
  if (tabs.current === "server") server.update(state);
}

function show(id: string, text: string): void {
  const node = byId(id);
  if (node.textContent !== text) node.textContent = text;
}

function onReach(error: ApiError | undefined): void {
  document.body.classList.toggle("unreached", error !== undefined);
  // a missing key is asked for in a dialog
  notice.hidden = error === undefined || error.status === 401;
  notice.textContent = error?.message ?? "";
  if (error?.status === 401) void askKey(error.message);
  else if (error === undefined) void loadModels();
}

/** Asks for the key and begins again with it. */
async function askKey(message: string): Promise<boolean> {
  const given = await keys.ask(message);
  if (given) {
    await loadModels();
    live.ask();
  } else {
    notice.hidden = false;
    notice.textContent = "This server wants an API key. Reload the page to give one.";
  }
  return given;
}

let loading: ReturnType<typeof setTimeout> | undefined;

/** Asks for the models; again while the server is still loading one. */
async function loadModels(): Promise<void> {
  clearTimeout(loading);
  try {
    await models.load();
  } catch (thrown) {
    const error = thrown instanceof ApiError ? thrown : new ApiError(0, String(thrown));
    models.trouble(error);
    if (error.status === 401) return;
    notice.hidden = false;
    notice.textContent = error.message;
    loading = setTimeout(() => void loadModels(), 1000);
    return;
  }
  notice.hidden = true;
}

/** Escape ends the answer; Ctrl with `/`, `.` and `,` goes to the message, the other view, the settings. */
document.addEventListener("keydown", (event) => {
  if (document.querySelector("dialog[open]")) return;
  if (event.key === "Escape" && chat.isWriting) {
    event.preventDefault();
    chat.stop();
  } else if (event.ctrlKey || event.metaKey) {
    const act = { "/": toMessage, ".": () => tabs.show(tabs.other), ",": () => settings.open() }[event.key];
    if (act === undefined) return;
    event.preventDefault();
    act();
  }
});

function toMessage(): void {
  if (tabs.current !== "chat") tabs.show("chat");
  composer.focus();
}

byId("open-settings").addEventListener("click", () => settings.open());
byId("clear").addEventListener("click", () => {
  chat.clear();
  composer.focus();
});
byId("backend").addEventListener("click", () => tabs.show("server"));
byId("skip").addEventListener("click", (event) => {
  event.preventDefault();
  toMessage();
});
for (const example of document.querySelectorAll<HTMLButtonElement>("#empty button")) {
  example.addEventListener("click", () => composer.edit(example.textContent ?? ""));
}
if (matchMedia("(pointer: fine)").matches) composer.focus();
void loadModels();
live.ask();
