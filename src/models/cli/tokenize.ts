import { command } from "../../terminal/command.ts";
import { print, printJson } from "../../terminal/output.ts";
import { openModelFiles } from "../files/source.ts";
import { modelOption, modelPath } from "../model_option.ts";
import { openTokenizer } from "../open_tokenizer.ts";
import { readStdin } from "./input.ts";

export const tokenize = command({
  meta: { name: "tokenize", description: "Turns text into token ids of a model's vocabulary." },
  args: {
    ...modelOption,
    text: { type: "positional", required: false, description: "The text; absent: stdin" },
    special: { type: "boolean", description: "Control tokens written out in the text become those tokens" },
    bos: {
      type: "boolean",
      description: "Begin with the vocabulary's first token (--no-bos: never); absent: as the file says",
    },
    pieces: { type: "boolean", description: "Print a line per token: its id and the text it adds" },
    json: { type: "boolean", description: "Print {tokens, pieces, count} as JSON" },
  },
  examples: [
    "psionic tokenize 'Hello, world'",
    "psionic tokenize -m model.gguf --special --json < prompt.txt",
  ],
  async run({ args }) {
    const text = args.text ?? (await readStdin("TEXT"));
    const tokenizer = openTokenizer(openModelFiles(modelPath(args.model)));
    const ids = tokenizer.encode(text, {
      special: args.special ?? false,
      ...(args.bos === undefined ? {} : { bos: args.bos }),
    });
    const pieces = () => ids.map((id) => tokenizer.decode([id], { special: true, continuation: true }));
    if (args.json) await printJson({ tokens: ids, pieces: pieces(), count: ids.length });
    else if (args.pieces)
      await print(
        pieces()
          .map((piece, i) => `${ids[i]}\t${JSON.stringify(piece)}`)
          .join("\n"),
      );
    else await print(ids.join(" "));
  },
});
