import type { Route } from "../context.ts";
import { json } from "../errors.ts";
import { modelFacts } from "../model_card.ts";

/** What clients of llama.cpp's server ask to learn the context length and the template; `?model=` names another than the default. */
export const props: Route = {
  method: "GET",
  path: "/props",
  handle: async ({ state, request, take }) => {
    const asked = new URL(request.url).searchParams.get("model");
    const { engine, tokenizer, chatTemplate } = (await take(asked)).model;
    const { info } = engine;
    const tokenText = (id: number | undefined): string => (id === undefined ? "" : tokenizer.tokenText(id));
    return json({
      default_generation_settings: {
        n_ctx: info.contextLength,
        n_predict: -1,
        // Without any sampling field a request is greedy; these apply once one is set.
        params: {
          temperature: 0.8,
          top_k: 40,
          top_p: 0.9,
          min_p: 0,
          typical_p: 1,
          repeat_penalty: 1,
          repeat_last_n: 64,
        },
      },
      total_slots: info.slots,
      model_alias: modelFacts(info).name,
      model_path: info.model.path,
      chat_template: chatTemplate ?? "",
      bos_token: tokenText(tokenizer.bos),
      eos_token: tokenText(tokenizer.eos),
      modalities: { vision: false, audio: false },
      build_info: `psionic ${state.settings.version}`,
    });
  },
};
