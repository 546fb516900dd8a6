import { basename } from "node:path";
import * as v from "valibot";
import type { Steps } from "../../../core/steps.ts";
import { describe, readJson, validate } from "../body.ts";
import type { Route } from "../context.ts";
import { badField, HttpError, json } from "../errors.ts";
import { ignoredHeaders, sortFields } from "../fields.ts";
import type { ServedModel } from "../options.ts";
import { encodePrompt, tooLong } from "../prompt_length.ts";
import { flag, integer, maybe, text } from "../schema.ts";
import { embedAll, numbersOf, usageOf } from "../vectors.ts";

const entries = {
  model: maybe(text),
  query: text,
  documents: v.array(v.unknown(), "an array of texts"),
  top_n: maybe(integer(1, 2 ** 31 - 1)),
  return_documents: maybe(flag),
};

/** `{query, documents, top_n?, return_documents?}` to documents by their relevance, the greatest first. */
export const rerank: Route = {
  method: "POST",
  path: "/rerank",
  handle: async (context) => {
    const { state, record, inSteps } = context;
    const { limits } = state.settings;
    const raw = await readJson(context);
    const body = validate(v.object(entries), raw);
    const ignored = sortFields(raw as object, entries);
    record.ignored = ignored.length;
    const documents = readDocuments(body.documents, limits.inputs);
    const { model, name } = await context.take(body.model);
    const pairs = pairTokens(model);
    const inputs = await inSteps(pairs(body.query, documents));
    const { vectors, headers } = await embedAll(context, model, inputs, "documents");
    const scored = vectors.base64.map((base64, index) => ({
      index,
      relevance_score: numbersOf(base64)[0]!,
      ...(body.return_documents ? { document: { text: documents[index]! } } : {}),
    }));
    scored.sort((a, b) => b.relevance_score - a.relevance_score || a.index - b.index);
    const results = scored.slice(0, body.top_n ?? scored.length);
    return json({ object: "list", model: name, results, usage: usageOf(vectors) }, 200, {
      ...headers,
      ...ignoredHeaders(ignored),
    });
  },
};

/** Texts, or objects with a `text`. */
function readDocuments(documents: readonly unknown[], most: number): readonly string[] {
  if (documents.length === 0 || documents.length > most)
    throw badField("documents", `1 to ${most} texts`, String(documents.length));
  return documents.map((document, i) => {
    const inner =
      typeof document === "object" && document !== null && "text" in document ? document.text : document;
    if (typeof inner === "string") return inner;
    throw badField(`documents[${i}]`, "a text", describe(inner));
  });
}

/** Writes a query and a document as the model was trained to read them. Control tokens in either stay text. */
function pairTokens(served: ServedModel) {
  const { engine, rerankTemplate } = served;
  const { embedding, backend, model } = engine.info;
  if (embedding?.pooling !== "rank" || rerankTemplate === undefined) {
    const missing = embedding?.pooling === "rank" ? "has no template for it" : "has no reranker's head";
    throw new HttpError(
      400,
      `Worker ${backend.backend} lacks rerank support: the file of model ${basename(model.path)} ${missing}.`,
      { code: "unsupported_capability", param: "model" },
    );
  }
  const parts = rerankTemplate.split(/(\{query\}|\{document\})/);
  return function* (query: string, documents: readonly string[]): Steps<number[][]> {
    const pairs: number[][] = [];
    for (const document of documents) {
      const tokens: number[] = [];
      for (const [i, part] of parts.entries()) {
        const special = part !== "{query}" && part !== "{document}";
        const written = special ? part : part === "{query}" ? query : document;
        const outer = i === 0 ? { eos: false } : { bos: false, eos: false };
        if (written === "" && i > 0) continue;
        for (const id of yield* encodePrompt(served, written, { special, ...outer })) tokens.push(id);
      }
      if (tokens.length === 0) throw badField("query", "at least one token", "none");
      if (tokens.length >= engine.info.contextLength) throw tooLong(served, tokens.length);
      pairs.push(tokens);
      yield;
    }
    return pairs;
  };
}
