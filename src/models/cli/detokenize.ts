import { command, UsageError } from "../../terminal/command.ts";
import { printJson } from "../../terminal/output.ts";
import { openModelFiles } from "../files/source.ts";
import { modelOption, modelPath } from "../model_option.ts";
import { openTokenizer } from "../open_tokenizer.ts";
import { parseIds, readStdin, readText } from "./input.ts";

export const detokenize = command({
  meta: { name: "detokenize", description: "Turns token ids into the text they stand for." },
  args: {
    ...modelOption,
    tokens: {
      type: "positional",
      required: false,
      description: "Ids between blanks or commas, as one argument; absent: stdin",
    },
    ids: {
      type: "string",
      valueHint: "FILE",
      description: "File with the ids: a JSON array, or white space between them",
    },
    special: { type: "boolean", description: "Control tokens appear as their names" },
    json: { type: "boolean", description: "Print {content} as JSON" },
  },
  examples: ["psionic detokenize '13225 11 2375'", "psionic detokenize --ids ids.json"],
  async run({ args }) {
    if (args.ids !== undefined && args.tokens !== undefined)
      throw new UsageError("--ids and TOKENS are both given");
    const text =
      args.tokens ?? (args.ids === undefined ? await readStdin("TOKENS") : readText(args.ids, "--ids"));
    const tokenizer = openTokenizer(openModelFiles(modelPath(args.model)));
    const ids = parseIds(text, args.ids ?? "tokens", tokenizer.vocabularySize);
    const content = tokenizer.decode(ids, { special: args.special ?? false });
    if (args.json) await printJson({ content });
    else await Bun.write(Bun.stdout, content.endsWith("\n") ? content : `${content}\n`);
  },
});
