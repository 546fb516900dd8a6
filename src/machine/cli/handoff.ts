import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { PsionicError } from "../../core/error.ts";
import { command, ExitError, UsageError, wholeNumber } from "../../terminal/command.ts";
import { stopped } from "../../terminal/live_page.ts";
import { print, printJson } from "../../terminal/output.ts";
import { Refusal, refusals } from "../contract.ts";
import { fetchHandoff, peerAddress } from "../handoff_fetch.ts";
import { openHandoff, serveHandoff } from "../handoff_server.ts";

const value = (hint: string, description: string) =>
  ({ type: "string", valueHint: hint, description }) as const;

const tokenFile = value("FILE", "A file with the token that peers must send, at least 8 characters");

const needed = (text: string | undefined, option: string): string => {
  if (text === undefined || text === "") throw new UsageError(`${option} is needed`);
  return text;
};

function tokenOf(path: string | undefined): string | undefined {
  if (path === undefined) return undefined;
  const token = readFileSync(path, "utf8").trim();
  if (token.length < 8 || /\s/.test(token))
    throw new UsageError("--token-file has one token of at least 8 characters");
  return token;
}

const loopback = ["127.0.0.1", "localhost", "::1"];

export const serveCheckpoint = command({
  meta: {
    name: "train serve-checkpoint",
    description: "Gives the checkpoint that a serve_checkpoint handed over to the peer that fetches it",
  },
  args: {
    "run-root": value("FOLDER", "The run root with the handoff receipt; it is read and not taken"),
    host: value("ADDRESS", "Address to listen on; default 127.0.0.1"),
    port: value("N", "Port; default any that is free"),
    "token-file": tokenFile,
    "allow-unauthenticated": { type: "boolean", description: "Listen beyond loopback without a token" },
  },
  examples: ["psionic train serve-checkpoint --run-root worker --port 7400"],
  async run({ args }) {
    const root = resolve(needed(args["run-root"], "--run-root"));
    const host = args.host ?? "127.0.0.1";
    const token = tokenOf(args["token-file"]);
    if (!loopback.includes(host) && token === undefined && args["allow-unauthenticated"] !== true)
      throw new UsageError("--host beyond loopback needs --token-file, or --allow-unauthenticated");
    using handoff = openHandoff(root);
    const port = wholeNumber(args.port, "--port", 0, 65535) ?? 0;
    const server = serveHandoff(handoff, { host, port, token });
    const { checkpoint_label: label, optimizer_step: step, peer_node_pubkey: peer } = handoff.receipt;
    const shown = host.includes(":") ? `[${host}]` : host;
    await print(
      `psionic serve-checkpoint http://${shown}:${server.port} label=${label} step=${step} bytes=${handoff.object.bytes} peer=${peer}`,
    );
    await stopped();
    await server.stop(true);
  },
});

export const fetchCheckpoint = command({
  meta: {
    name: "train fetch-checkpoint",
    description: `Brings a checkpoint from a peer into artifacts/resolved of a run root, where resume finds it. What an earlier
attempt left is kept. Exit codes: 0 it is there; 15 the peer is gone, stalls or breaks off; 16 it sends something else
than was promised; 17 it cannot be kept here.`,
  },
  args: {
    from: value("URL", "What serve-checkpoint printed"),
    "run-root": value("FOLDER", "Run root of who fetches; made where it is not there"),
    "node-pubkey": value("KEY", "Who fetches; the receipt must be made out to it"),
    "receipt-digest": value("SHA256", "Digest that the receipt's file must have"),
    "token-file": tokenFile,
    "stall-seconds": value("N", "How long the peer may send nothing; default 30"),
    attempts: value("N", "Failures in a row after which it is given up; default 6"),
    json: { type: "boolean", description: "Write one JSON document to stdout" },
  },
  examples: ["psionic train fetch-checkpoint --from http://127.0.0.1:7400 --run-root joiner"],
  async run({ args }) {
    const from = peerAddress(needed(args.from, "--from"));
    const root = resolve(needed(args["run-root"], "--run-root"));
    try {
      const done = await fetchHandoff({
        ...{ from, root, node: args["node-pubkey"], receiptDigest: args["receipt-digest"] },
        token: tokenOf(args["token-file"] ?? process.env.PSIONIC_HANDOFF_TOKEN_FILE),
        stallMs: 1000 * (wholeNumber(args["stall-seconds"], "--stall-seconds", 1, 3600) ?? 30),
        attempts: wholeNumber(args.attempts, "--attempts", 1, 100) ?? 6,
        pauseMs: 500,
      });
      const { receipt, binding, bytes, resumedBytes, objectPath } = done;
      if (args.json !== true)
        return print(
          `Fetched ${receipt.checkpoint_label} of step ${receipt.optimizer_step}, ${bytes} bytes.`,
        );
      return printJson({
        receipt_path: binding.materialized_path,
        peer_checkpoint_handoff_receipt: binding,
        ...{ object_path: objectPath, bytes, resumed_bytes: resumedBytes },
      });
    } catch (cause) {
      if (!(cause instanceof Refusal)) throw cause;
      const failure = new PsionicError(cause.code, cause.message, { ...cause.details }, cause);
      throw new ExitError(refusals[cause.refusalClass].exitCode, failure);
    }
  },
});
