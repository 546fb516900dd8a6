import { version } from "../../core/version.ts";
import { defaultModelPath } from "../../models/default_model.ts";
import { parseApiKeys } from "../http/security.ts";
import { startServer } from "../http/server.ts";
import type { EngineOptions } from "../protocol.ts";
import { type Script, ScriptedEngine } from "../scripted_engine.ts";
import { openServedModel, openText } from "../served_model.ts";
import type { Probe } from "./probe.ts";
import { firstModel, makeTarget, type Target } from "./target.ts";

/** A server of our own for probes, on a free port of this machine. */
export type OwnServer = { readonly target: Target; readonly close: () => Promise<void> };

/** The server as `psionic serve` starts it, around a loaded model. */
export async function ownServer(options: EngineOptions): Promise<OwnServer> {
  const model = await openServedModel(options);
  try {
    const server = await startServer(model, { port: 0, version });
    return {
      target: makeTarget(server.url, await firstModel(server.url, undefined), undefined),
      close: async () => {
        await server.stop({ force: true });
        await model.engine.close(true);
      },
    };
  } catch (error) {
    await model.engine.close(true);
    throw error;
  }
}

/** Context of a scripted model, tokens. */
const scriptedContext = 8192;

/** The same server around known tokens of the built-in model's vocabulary: parser, stream and routes are the real ones. */
export async function scriptedServer(script: Script, own: Probe["own"] = {}): Promise<OwnServer> {
  const text = openText(defaultModelPath());
  const engine = new ScriptedEngine({ contextLength: scriptedContext, ...script }, text.tokenizer);
  const { apiKey, pingMs } = own;
  const server = await startServer(
    { ...text, engine },
    {
      ...{ port: 0, version },
      ...(apiKey === undefined ? {} : { apiKeys: parseApiKeys(apiKey, "conformance") }),
      ...(pingMs === undefined ? {} : { pingMs }),
    },
  );
  return {
    target: makeTarget(server.url, await firstModel(server.url, apiKey), apiKey),
    close: () => server.stop({ force: true }),
  };
}
