import { list } from "../../terminal/command.ts";
import { engineArgs } from "./engine_options.ts";

/** Options of `serve`. */
export const serveArgs = {
  ...engineArgs,
  model: {
    ...engineArgs.model,
    repeatable: true,
    description:
      "GGUF file, Hugging Face folder or pulled name; several times for several models; absent: the built-in one",
  },
  "models-dir": {
    type: "string",
    valueHint: "FOLDER",
    description: "Serves every model in this folder too, each loaded when a request names it",
  },
  adapter: {
    type: "string",
    repeatable: true,
    valueHint: "NAME=PATH",
    description:
      "Low-rank adapter of the model, a folder or its safetensors file, that requests name as <model>:NAME; may be given several times",
  },
  "idle-unload": {
    type: "string",
    valueHint: "SECONDS",
    description: "Unloads a model that nobody has used for so long; absent: only to make room for another",
  },
  "prefix-disk": {
    type: "string",
    valueHint: "SIZE",
    description:
      "Keeps the prefix cache in files, too, up to this size (8GiB), so that chats go on quickly after a restart; absent or 0: in memory only",
  },
  "prefix-disk-dir": {
    type: "string",
    valueHint: "FOLDER",
    description: "Where these files lie; absent: the folder prefixes in the user's cache folder",
  },
  host: { type: "string", default: "127.0.0.1", valueHint: "ADDRESS", description: "Address to listen on" },
  port: {
    type: "string",
    default: "8080",
    valueHint: "N",
    description: "Port to listen on; 0 takes a free one",
  },
  parallel: {
    type: "string",
    alias: "np",
    valueHint: "N",
    description: "Requests that run at once, of each model; absent: 8",
  },
  "max-queue": {
    type: "string",
    valueHint: "N",
    description: "Requests that may wait, of each model; beyond it 503; absent: 2048",
  },
  "reasoning-budget": {
    type: "string",
    default: "0",
    valueHint: "N",
    description: "Reasoning effort where a request names none: 0 low, 1 medium, 2 or more high",
  },
  "metal-mode": {
    type: "enum",
    options: list("auto", "native", "proxy"),
    description: "How Metal is used; only with --backend auto or metal",
  },
  "api-key-file": {
    type: "string",
    valueHint: "PATH",
    description: "File with one API key a line; needed to listen beyond this machine",
  },
  "allow-unauthenticated": {
    type: "boolean",
    alias: "insecure-bind",
    description: "Listen beyond this machine without keys",
  },
  "allowed-host": {
    type: "string",
    alias: "allow-host",
    valueHint: "NAMES",
    description: "Further names that a Host header may carry, comma-separated",
  },
  "cors-origin": {
    type: "string",
    valueHint: "ORIGINS",
    description: "Origins whose pages may call, comma-separated; * for all",
  },
  "log-format": {
    type: "enum",
    options: list("text", "json"),
    default: "text",
    description: "Form of the log on stderr",
  },
  rehearse: {
    type: "boolean",
    default: true,
    description:
      "On a GPU, a made-up request goes through the server ten times a second for a minute behind each real one, so that the next is answered sooner",
  },
  webui: { type: "boolean", default: true, description: "The page at /; --no-webui leaves it out" },
  config: {
    type: "string",
    valueHint: "PATH",
    description:
      "Settings file, TOML or JSON; absent: serve.toml in the user's configuration folder, if it is there",
  },
  "print-config": {
    type: "boolean",
    description: "Print every setting and where it comes from, and do not serve",
  },
} as const;
