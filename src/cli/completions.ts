import { type AnyCommand, command, UsageError } from "../terminal/command.ts";
import { optionSpellings } from "../terminal/help.ts";
import { print } from "../terminal/output.ts";
import { commands } from "./commands.ts";

type Words = {
  readonly name: string;
  readonly description: string;
  readonly options: readonly string[];
};
/** `actions`: first words that have options of their own. */
type Loaded = Words & { readonly actions: readonly Words[] };

const wordsOf = async (
  name: string,
  { description, load }: { readonly description: string; readonly load?: () => Promise<AnyCommand> },
): Promise<Words> => ({
  ...{ name, description },
  options: [...optionSpellings((await load?.())?.args ?? ownArguments), "--help"],
});

/** Of an action that reads its words itself; there is one. */
const ownArguments = { manifest: { type: "string" } } as const;

export const completions = command({
  meta: {
    name: "completions",
    description: "Prints a completion script, made from the commands' own tables.",
  },
  args: { shell: { type: "positional", required: true, description: "bash, zsh or fish" } },
  examples: [
    "psionic completions bash > ~/.local/share/bash-completion/completions/psionic",
    "psionic completions fish > ~/.config/fish/completions/psionic.fish",
    "psionic completions zsh > ~/.zfunc/_psionic",
  ],
  async run({ args }) {
    const write = writers[args.shell];
    if (!write) throw new UsageError(`expected bash, zsh or fish, got ${args.shell}`);
    const loaded = await Promise.all(
      Object.entries(commands).map(async ([name, entry]) => ({
        ...(await wordsOf(name, entry)),
        actions: await Promise.all(
          Object.entries(entry.actions ?? {}).map(([word, action]) => wordsOf(word, action)),
        ),
      })),
    );
    await print(write(loaded));
  },
});

const writers: Readonly<Record<string, (all: readonly Loaded[]) => string>> = { bash, zsh, fish };

/** Prints the names of pulled models; they complete after `-m` and where a command wants one. */
const modelNames = "psionic list --names 2>/dev/null";
/** Commands whose argument is the name of a pulled model. */
const ofModels = ["show", "rm"];

/** Files complete after `-m`, beside pulled models, and wherever an option wants a value. */
function bash(all: readonly Loaded[]): string {
  const cases = all.map(({ name, options }) => `    ${name}) words="${options.join(" ")}" ;;`);
  const both = all.flatMap(({ name, actions }) =>
    actions.map(({ name: word, options }) => `    "${name} ${word}") words="${options.join(" ")}" ;;`),
  );
  const first = all.flatMap(({ name, actions }) =>
    actions.length === 0 ? [] : [`    ${name}) actions="${actions.map((a) => a.name).join(" ")}" ;;`],
  );
  return `# bash completion for psionic
_psionic() {
  local word="\${COMP_WORDS[COMP_CWORD]}" before="\${COMP_WORDS[COMP_CWORD-1]}" words="" actions=""
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W "${all.map(({ name }) => name).join(" ")} --help --version" -- "$word"))
    return
  fi
  case "\${COMP_WORDS[1]}" in
${cases.join("\n")}
  esac
  case "\${COMP_WORDS[1]} \${COMP_WORDS[2]}" in
${both.join("\n")}
  esac
  case "\${COMP_WORDS[1]}" in
${first.join("\n")}
  esac
  if [[ "$word" == -* ]]; then
    COMPREPLY=($(compgen -W "$words" -- "$word"))
  elif [[ "$COMP_CWORD" -eq 2 && -n "$actions" ]]; then
    COMPREPLY=($(compgen -W "$actions" -- "$word") $(compgen -f -- "$word"))
  elif [[ "$before" == -m || "$before" == --model || " ${ofModels.join(" ")} " == *" \${COMP_WORDS[1]} "* ]]; then
    COMPREPLY=($(compgen -W "$(${modelNames})" -- "$word") $(compgen -f -- "$word"))
  else
    COMPREPLY=($(compgen -f -- "$word"))
  fi
}
complete -o filenames -F _psionic psionic
`;
}

function zsh(all: readonly Loaded[]): string {
  const quoted = (text: string) => `'${text.replaceAll("'", "'\\''")}'`;
  const names = all.map(({ name, description }) => `    ${quoted(`${name}:${description}`)}`);
  const cases = all.map(({ name, options }) => `    ${name}) choices=(${options.join(" ")}) ;;`);
  const both = all.flatMap(({ name, actions }) =>
    actions.map(({ name: word, options }) => `    "${name} ${word}") choices=(${options.join(" ")}) ;;`),
  );
  const first = all.flatMap(({ name, actions }) =>
    actions.length === 0 ? [] : [`    ${name}) actions=(${actions.map((a) => a.name).join(" ")}) ;;`],
  );
  return `#compdef psionic
_psionic() {
  local -a names choices actions
  names=(
${names.join("\n")}
  )
  if (( CURRENT == 2 )); then
    _describe command names
    return
  fi
  case "$words[2]" in
${cases.join("\n")}
  esac
  case "$words[2] $words[3]" in
${both.join("\n")}
  esac
  case "$words[2]" in
${first.join("\n")}
  esac
  (( CURRENT == 3 )) && compadd -- $actions
  if [[ "$PREFIX" == -* ]]; then
    compadd -- $choices
  else
    if [[ "$words[CURRENT-1]" == (-m|--model) || "$words[2]" == (${ofModels.join("|")}) ]]; then
      compadd -- \${(f)"$(${modelNames})"}
    fi
    _files
  fi
}
_psionic "$@"
`;
}

function fish(all: readonly Loaded[]): string {
  const quoted = (text: string) => `'${text.replaceAll("\\", "\\\\").replaceAll("'", "\\'")}'`;
  const within = (name: string): string => `-n "__fish_seen_subcommand_from ${name}"`;
  const both = (name: string, word: string): string =>
    `-n "__fish_seen_subcommand_from ${name}; and __fish_seen_subcommand_from ${word}"`;
  const lines = all.flatMap(({ name, description, options, actions }) => [
    `complete -c psionic -n __fish_use_subcommand -f -a ${name} -d ${quoted(description)}`,
    ...options.map((o) => `complete -c psionic ${within(name)} ${fishOption(o)}`),
    ...actions.flatMap((action) => [
      `complete -c psionic ${within(name)} -a ${action.name} -d ${quoted(action.description)}`,
      ...action.options.map((o) => `complete -c psionic ${both(name, action.name)} ${fishOption(o)}`),
    ]),
  ]);
  const names = ofModels.map(
    (name) => `complete -c psionic -n "__fish_seen_subcommand_from ${name}" -f -a "(${modelNames})"`,
  );
  return ["# fish completion for psionic", ...lines, ...names, ""].join("\n");
}

function fishOption(spelling: string): string {
  if (spelling === "--model" || spelling === "-m") {
    return `${spelling === "-m" ? "-s m" : "-l model"} -r -F -a "(${modelNames})"`;
  }
  if (spelling.startsWith("--")) return `-l ${spelling.slice(2)}`;
  return spelling.length === 2 ? `-s ${spelling.slice(1)}` : `-o ${spelling.slice(1)}`;
}
