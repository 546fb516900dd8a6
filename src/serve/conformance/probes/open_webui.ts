import { at, listAt } from "../json.ts";
import { must, type Probe } from "../probe.ts";
import { chat, mustBeError, readChatStream, readChoice } from "../shapes.ts";
import { ok } from "../target.ts";

/** What Open WebUI needs, and what its users run into: they point it at the wrong prefix. */
export const openWebuiProbes: readonly Probe[] = [
  {
    name: "open-webui.prefix",
    requires: "models and chat are answered with and without /v1",
    threads: "open-webui/open-webui#2475, #5842, #1483",
    run: async (target) => {
      for (const prefix of ["", "/v1"]) {
        const list = ok(await target.get(`${prefix}/models`));
        must(listAt(list, "data").length > 0, `models at ${prefix}/models`, list);
        readChoice(await target.post(`${prefix}/chat/completions`, chat(target, { max_tokens: 1 })));
      }
      return undefined;
    },
  },
  {
    name: "open-webui.wrong-prefix",
    requires: "a wrong prefix is a 404 with a message that says so",
    threads: "open-webui/open-webui#5842",
    run: async (target) => {
      for (const path of ["/api/chat/completions", "/v1/v1/chat/completions"]) {
        mustBeError(await target.post(path, chat(target)), 404);
      }
      return undefined;
    },
  },
  {
    name: "open-webui.ollama",
    requires: "Ollama's routes are Ollama's answers or a fast 404",
    run: async (target) => {
      const version = await target.get("/api/version");
      const tags = await target.get("/api/tags");
      for (const reply of [version, tags]) {
        must(reply.status === 200 || reply.status === 404, "200 or 404", reply.status);
        must(reply.ms < 2000, "an answer within 2 s", `${Math.round(reply.ms)} ms`);
      }
      if (tags.status === 200) must(Array.isArray(at(tags.json, "models")), "models, an array", tags.json);
      return undefined;
    },
  },
  {
    name: "open-webui.stream",
    requires: "a chat with a system message streams; text pieces join to the whole answer",
    run: async (target) => {
      const messages = [
        { role: "system", content: "Be brief." },
        { role: "user", content: "Why does HTTPS matter?" },
      ];
      const asked = chat(target, { messages, max_tokens: 48 });
      const path = "/v1/chat/completions";
      const { content, reasoning } = readChatStream(await target.stream(path, { ...asked, stream: true }));
      must(content + reasoning !== "", "some text", "none");
      return undefined;
    },
  },
];
