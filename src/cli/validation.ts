import { existsSync } from "node:fs";
import { findCuda, findMetal, openDevice } from "../backends/index.ts";
import type { BackendName } from "../ir/op.ts";
import { resolveBackend } from "../models/cli/backend_option.ts";
import { defaultModelPath } from "../models/default_model.ts";
import { ownServer } from "../serve/conformance/own.ts";
import type { Reply, Target } from "../serve/conformance/target.ts";

export type Coverage =
  | "positive_execution"
  | "explicit_refusal"
  | "discovery_readiness"
  | "not_yet_validated";

/** A claim about this machine, made only where it was just observed. */
export type Claim = {
  readonly matrix_id: typeof matrixId;
  readonly documentation_path: typeof documentationPath;
  readonly claim_id: string;
  readonly coverage: Coverage;
  /** What was seen, or why nothing was. */
  readonly evidence: string;
  /** Shows the same to whoever runs it. */
  readonly command: string;
  /** Exit code of that command. */
  readonly exit_code: number;
};

export const matrixId = "psionic.minimum_hardware_validation.v1";
export const documentationPath = "docs/hardware-validation.md";

type Seen = { readonly coverage: Coverage; readonly claim: string; readonly evidence: string };

/** The machine as the matrix asks about it; tests put others in its place. */
export type Machine = {
  readonly platform: string;
  /** CUDA opens a device. */
  readonly cuda: boolean;
  /** Metal opens the GPU of a Mac. */
  readonly metal: boolean;
  /** Linux shows AMD's compute driver. */
  readonly kfd: boolean;
};

export function thisMachine(): Machine {
  const cuda = findCuda(1).devices.length > 0;
  const metal = findMetal().device !== undefined;
  return { platform: process.platform, cuda, metal, kfd: existsSync("/dev/kfd") };
}

/** Runs what can be run here and collects what was seen: a row per backend and product. */
export async function validationMatrix(machine: Machine = thisMachine()): Promise<Claim[]> {
  const claims = await executions("cpu", "reference");
  if (machine.cuda) claims.push(...(await executions("cuda", "nvidia")));
  else claims.push(refusal("cuda", "cuda.refusal.unavailable", () => openDevice("cuda").close()));
  if (machine.metal) claims.push(...(await executions("metal", "apple")));
  else if (machine.platform === "darwin") {
    const evidence = findMetal().reason ?? "no Metal device opens";
    claims.push(
      row({ coverage: "not_yet_validated", claim: "metal.text_generation", evidence }, run("metal"), 1),
    );
  } else claims.push(refusal("metal", "metal.refusal.off_platform", () => void resolveBackend("metal")));
  if (machine.platform === "linux") claims.push(...amd(machine.kfd));
  return claims;
}

function row({ coverage, claim, evidence }: Seen, command: string, exitCode: number): Claim {
  return {
    matrix_id: matrixId,
    documentation_path: documentationPath,
    claim_id: coverage === "not_yet_validated" ? `${claim}.not_yet_validated` : claim,
    coverage,
    evidence,
    command,
    exit_code: exitCode,
  };
}

const run = (backend: string): string => `psionic run --backend ${backend} -p 'Why does HTTPS matter?'`;

/** Generates and embeds with the built-in model through a server on this machine's loopback. */
async function executions(backend: BackendName, lane: string): Promise<Claim[]> {
  const generation = `${backend}.text_generation`;
  const embeddings = `${backend}.embeddings`;
  const commands = [
    run(backend),
    `psionic conformance --backend ${backend} --only openai.embeddings`,
  ] as const;
  try {
    const server = await ownServer({ modelPath: defaultModelPath(), backend, contextLength: 256, slots: 1 });
    try {
      const chat = await generate(server.target);
      const vectors = await server.target.post("/v1/embeddings", { input: "HTTPS" });
      return [
        row(seenIn(chat, backend, generation, lane, textEvidence), commands[0], 0),
        row(seenIn(vectors, backend, embeddings, lane, vectorEvidence), commands[1], 0),
      ];
    } finally {
      await server.close();
    }
  } catch (error) {
    const evidence = error instanceof Error ? error.message : String(error);
    return [generation, embeddings].map((claim, i) =>
      row({ coverage: "not_yet_validated", claim, evidence }, commands[i]!, 1),
    );
  }
}

function generate(target: Target): Promise<Reply> {
  const messages = [{ role: "user", content: "Why does HTTPS matter?" }];
  return target.post("/v1/chat/completions", { messages, max_tokens: 8 });
}

/** Positive only where the answer's own headers say that this backend made it. */
function seenIn(
  reply: Reply,
  backend: string,
  claim: string,
  lane: string,
  evidenceOf: (json: unknown) => string | undefined,
): Seen {
  const truth = ["backend", "execution-mode", "execution-engine"].map(
    (name) => `${name.replace("-", "_")}=${reply.headers.get(`x-psionic-${name}`) ?? "none"}`,
  );
  const found = reply.status === 200 ? evidenceOf(reply.json) : undefined;
  if (found !== undefined && reply.headers.get("x-psionic-backend") === backend) {
    return {
      coverage: "positive_execution",
      claim: `${claim}.${lane}`,
      evidence: `${found}, ${truth.join(" ")}`,
    };
  }
  const evidence = found === undefined ? `status ${reply.status}` : `${found}, but ${truth.join(" ")}`;
  return { coverage: "not_yet_validated", claim, evidence };
}

function textEvidence(json: unknown): string | undefined {
  const { usage } = json as { readonly usage?: { readonly completion_tokens?: unknown } };
  const tokens = Number(usage?.completion_tokens);
  return tokens > 0 ? `${tokens} tokens of the built-in model` : undefined;
}

function vectorEvidence(json: unknown): string | undefined {
  const { data } = json as { readonly data?: readonly { readonly embedding?: readonly unknown[] }[] };
  const width = data?.[0]?.embedding?.length ?? 0;
  return width > 0 ? `a vector of ${width} numbers of the built-in model` : undefined;
}

/** Asks for a backend that must decline here; that it does is the observation. */
function refusal(backend: string, claim: string, ask: () => void): Claim {
  try {
    ask();
  } catch (error) {
    const evidence = error instanceof Error ? error.message : String(error);
    return row({ coverage: "explicit_refusal", claim, evidence }, run(backend), 1);
  }
  const evidence = `${backend} was expected to decline here and did not`;
  return row({ coverage: "not_yet_validated", claim: `${backend}.refusal`, evidence }, run(backend), 0);
}

/** AMD's cards are only discovered; a backend for them does not exist, which wrong usage says. */
function amd(kfd: boolean): Claim[] {
  const list = "ls /dev/kfd";
  if (!kfd) {
    const evidence = "the system shows no AMD compute device";
    return [row({ coverage: "not_yet_validated", claim: "amd_kfd.discovery", evidence }, list, 2)];
  }
  const evidence = "--backend takes auto, cpu, cuda or metal";
  return [
    row(
      { coverage: "discovery_readiness", claim: "amd_kfd.discovery", evidence: "/dev/kfd is there" },
      list,
      0,
    ),
    row({ coverage: "explicit_refusal", claim: "amd_userspace.refusal", evidence }, run("amd"), 2),
  ];
}
