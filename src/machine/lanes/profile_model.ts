/** The model that a lane profile names. */
import type { TrainedModel } from "../../train/model.ts";
import { compactDecoder } from "../../train/models/compact_decoder.ts";
import { gptOss } from "../../train/models/gpt_oss.ts";
import { gpt2 } from "../../train/models/gpt2.ts";
import type { Parameters } from "../../train/parameters.ts";
import { refuse } from "../contract.ts";
import { docsBase, docsBaseName } from "./docs_base.ts";
import type { SettingsReader } from "./profile_settings.ts";

export type BaseModel = {
  readonly model: TrainedModel;
  /** Whether its matrices are stored as [in, out], not as [out, in]. */
  readonly transposed: boolean;
  /** Weights and tokenizer of a model that is not made from a seed. */
  readonly own?: {
    readonly digest: string;
    fill(parameters: Parameters): void;
    encode(text: string): Int32Array;
  };
};

type Build = (read: SettingsReader) => BaseModel;

const sizes = (read: SettingsReader) => ({
  width: read.whole("width", undefined, 1, 65536),
  layers: read.whole("layers", undefined, 1, 1024),
  heads: read.whole("heads", undefined, 1, 4096),
  vocabularySize: read.whole("vocabulary", undefined, 1, 2 ** 20),
  contextLength: read.whole("context", undefined, 1, 2 ** 20),
});

const models: Readonly<Record<string, Build>> = {
  compact_decoder: (read) => {
    const size = sizes(read);
    const more = {
      headDim: read.whole("head_dim", undefined, 2, 1024),
      feedForward: read.whole("feed_forward", undefined, 1, 2 ** 20),
      ownHead: read.flag("own_head", false),
    };
    return { model: compactDecoder({ id: "compact_decoder", ...size, ...more }), transposed: true };
  },
  gpt2: (read) => ({ model: gpt2(sizes(read)), transposed: true }),
  gpt_oss: (read) => ({
    transposed: false,
    model: gptOss({
      ...sizes(read),
      kvHeads: read.whole("kv_heads", undefined, 1, 4096),
      headDim: read.whole("head_dim", undefined, 2, 1024),
      window: read.whole("window", undefined, 1, 2 ** 20),
      experts: read.whole("experts", undefined, 1, 4096),
      expertsUsed: read.whole("experts_used", undefined, 1, 64),
      expertFeedForward: read.whole("expert_feed_forward", undefined, 1, 2 ** 20),
      ropeBase: read.number("rope_base", 150000, 1, 1e9),
      ropeScaling: { type: "none" },
      balance: read.number("balance", 0.01, 0, 1),
    }),
  }),
  [docsBaseName]: docsBase,
};

/** Throws `bad_config` for a name that stands for no model. */
export function modelOf(name: string, read: SettingsReader): BaseModel {
  const build = models[name];
  if (build) return build(read);
  return refuse(
    "bad_config",
    `lane profile model ${JSON.stringify(name.slice(0, 60))}: expected one of ${Object.keys(models).join(", ")}`,
  );
}
