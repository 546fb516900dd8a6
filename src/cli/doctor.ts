import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { cpus, totalmem } from "node:os";
import { join } from "node:path";
import { Cublaslt, findCuda, findMetal, measureRoofline, openDevice } from "../backends/index.ts";
import { embeddedFiles } from "../core/embedded.ts";
import { PsionicError } from "../core/error.ts";
import { cacheFolders } from "../core/unpack.ts";
import { version } from "../core/version.ts";
import { defaultModelPath } from "../models/default_model.ts";
import { supportedArchitectures } from "../models/registry.ts";
import type { DeviceInfo } from "../runtime/device.ts";
import { availableMemory } from "../serve/engine/index.ts";
import { command } from "../terminal/command.ts";
import { print, printJson } from "../terminal/output.ts";
import { readableBytes, table } from "../terminal/table.ts";
import { askedMode, measuredHere, productsVariable } from "../train/products.ts";
import type { Claim } from "./validation.ts";

type Finding = {
  readonly name: string;
  readonly state: "used" | "ready" | "not used" | "failed";
  readonly text: string;
};

export const doctor = command({
  meta: {
    name: "doctor",
    description: "Says what this machine offers, what psionic uses of it, and why something is not used.",
  },
  args: {
    measure: { type: "boolean", description: "Measure memory bandwidth and arithmetic too, about a second" },
    quick: { type: "boolean", description: "Leave out the validation matrix, whose rows are run to be seen" },
    json: { type: "boolean", description: "Print the findings as JSON" },
  },
  examples: ["psionic doctor", "psionic doctor --quick", "psionic doctor --measure --json"],
  async run({ args }) {
    const measure = args.measure ?? false;
    const cpu = kernels(measure);
    const findings = [
      ...machine(cpu.levels),
      ...cpu.findings,
      ...cuda(measure),
      ...metal(measure),
      ...files(),
    ];
    const ok = findings.every(({ state }) => state !== "failed");
    const validation = args.quick ? [] : await (await import("./validation.ts")).validationMatrix();
    if (args.json) await printJson({ version, bun: Bun.version, ok, findings, validation });
    else {
      await print(`psionic ${version}, Bun ${Bun.version}, ${process.platform} ${process.arch}\n`);
      await print(table(findings.map(({ name, state, text }) => [`  ${name}`, state, text])));
      if (!args.quick) await print(validationText(validation));
    }
    if (!ok) throw new Error("something that serving needs does not work; see above");
  },
});

/** The matrix: what was seen a moment ago, and below each row the command that shows it again. */
function validationText(claims: readonly Claim[]): string {
  const lines = table(
    claims.map(({ claim_id, coverage, evidence }) => [`  ${claim_id}`, coverage, evidence]),
  );
  const rows = lines.split("\n").map((line, i) => {
    const { command, exit_code } = claims[i]!;
    return `${line}\n      ${command}${exit_code === 0 ? "" : ` (exit code ${exit_code})`}`;
  });
  return ["", `hardware validation ${claims[0]!.matrix_id}`, ...rows].join("\n");
}

function machine(levels: readonly string[]): Finding[] {
  const processor = cpus()[0]?.model.trim() || "unknown";
  const memory = `${readableBytes(totalmem())}, of which ${readableBytes(availableMemory())} may be taken`;
  return [
    { name: "processor", state: "used", text: `${processor}, ${cpus().length} logical cores` },
    { name: "memory", state: "used", text: memory },
    ...isaFindings(levels),
  ];
}

/**
 * What the kernels would use if the processor had it, on x86 under Linux, where the flags can be read; `levels` are those
 * that the library takes, none if it did not open.
 */
function isaFindings(levels: readonly string[]): Finding[] {
  if (process.arch !== "x64" || !existsSync("/proc/cpuinfo")) return [];
  const flags = new Set(
    /^flags\s*:(.*)$/m.exec(readFileSync("/proc/cpuinfo", "utf8"))?.[1]?.trim().split(" "),
  );
  const avx512 = ["avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"];
  const wanted: readonly (readonly [string, readonly string[]])[] = [
    ["avx2", ["avx2", "fma", "f16c", "bmi2"]],
    ["avx_vnni", ["avx2", "fma", "f16c", "bmi2", "avx_vnni"]],
    ["avx512", avx512],
    ["amx", [...avx512, "amx_tile", "amx_int8"]],
  ];
  return wanted.map(([name, needs]) => {
    const missing = needs.filter((flag) => !flags.has(flag));
    const isa = `isa ${name}`;
    if (missing.length > 0) {
      return { name: isa, state: "not used", text: `the processor lacks ${missing.join(", ")}` };
    }
    return levels.includes(name) || levels.length === 0
      ? { name: isa, state: "ready", text: "the processor has it" }
      : {
          name: isa,
          state: "not used",
          text: "the processor has it, but the system does not let this process use it",
        };
  });
}

/** The CPU's kernel library, and the instruction sets that it can take here. */
function kernels(measure: boolean): { readonly findings: Finding[]; readonly levels: readonly string[] } {
  try {
    const device = openDevice("cpu");
    const facts = device.backend.info();
    const findings: Finding[] = [{ name: "backend cpu", state: "used", text: factsText(facts) }];
    if (measure) {
      const { readGbPerSecond, int8GopPerSecond, f32GflopPerSecond } = measureRoofline();
      const speed = `read ${readGbPerSecond.toFixed(1)} GB/s, int8 ${int8GopPerSecond.toFixed(0)} Gop/s, f32 ${f32GflopPerSecond.toFixed(0)} Gflop/s`;
      findings.push({ name: "measured", state: "used", text: speed });
    }
    device.close();
    return { findings, levels: String(facts.levels).split(",") };
  } catch (error) {
    const text = error instanceof Error ? error.message : String(error);
    return { findings: [{ name: "backend cpu", state: "failed", text }], levels: [] };
  }
}

/** Each CUDA device with its driver; where there is none, why. */
function cuda(measure: boolean): Finding[] {
  const name = "backend cuda";
  const { hardware, library, devices, refused, reason } = findCuda();
  const there = hardware ? "an NVIDIA device is there, but: " : "no NVIDIA device is there; ";
  if (devices.length === 0) return [{ name, state: "not used", text: `${there}${reason}` }];
  const findings: Finding[] = devices.map((facts) => ({ name, state: "ready", text: factsText(facts) }));
  for (const text of refused) findings.push({ name, state: "not used", text });
  const numbers = devices.map(({ device_number: number }) => Number(number));
  findings.push({ name: "cuda library", state: "ready", text: String(library) }, cublaslt(numbers[0]!));
  if (measure) findings.push(...numbers.map(copySpeed));
  return findings;
}

/** Whether NVIDIA's cuBLASLt is here, and which products it makes: some of training's, never those that serve. */
function cublaslt(number: number): Finding {
  const name = "cublaslt";
  let mode: ReturnType<typeof askedMode>;
  try {
    mode = askedMode() ?? "measure";
  } catch (error) {
    return { name, state: "not used", text: `training on CUDA is refused; ${(error as Error).message}` };
  }
  const device = openDevice("cuda", { number });
  try {
    using library = new Cublaslt();
    const { products, cublaslt: theirs } = measuredHere(device, library);
    const measured =
      products > 0
        ? `${theirs} of ${products} shapes measured here`
        : "shapes are measured when a run begins";
    const which =
      mode === "measure" ? ` that it makes faster (${measured})` : ` (${productsVariable}=${mode})`;
    const state =
      mode === "off" || (mode === "measure" && products > 0 && theirs === 0) ? "not used" : "ready";
    const text = `${library.version}, for training's bf16 products${which}; serving uses psionic's own kernels`;
    return { name, state, text };
  } catch (error) {
    if (!(error instanceof PsionicError && error.code === "unsupported")) throw error;
    return { name, state: "not used", text: `psionic's own kernels make all products; ${error.message}` };
  } finally {
    device.close();
  }
}

function copySpeed(number: number): Finding {
  const name = `measured cuda ${number}`;
  const device = openDevice("cuda", { number });
  try {
    const { readGbPerSecond } = measureRoofline("cuda");
    return { name, state: "ready", text: `copy ${readGbPerSecond.toFixed(0)} GB/s` };
  } finally {
    device.close();
  }
}

function factsText(facts: DeviceInfo): string {
  return Object.entries(facts)
    .map(([key, value]) => `${key}=${value}`)
    .join(" ");
}

/** The GPU of a Mac, with its family, memory and Metal's version; where there is none, why. */
function metal(measure: boolean): Finding[] {
  const name = "backend metal";
  const { library, device: facts, reason } = findMetal();
  if (!facts) return [{ name, state: "not used", text: String(reason) }];
  const findings: Finding[] = [
    { name, state: "ready", text: factsText(facts) },
    { name: "metal library", state: "ready", text: String(library) },
  ];
  if (measure) {
    const device = openDevice("metal");
    const { readGbPerSecond } = measureRoofline("metal");
    device.close();
    findings.push({
      name: "measured metal",
      state: "ready",
      text: `copy ${readGbPerSecond.toFixed(0)} GB/s`,
    });
  }
  return findings;
}

function files(): Finding[] {
  return [
    ...cacheFindings(),
    modelFinding(),
    { name: "families", state: "ready", text: supportedArchitectures.join(", ") },
  ];
}

function cacheFindings(): Finding[] {
  if (embeddedFiles.size === 0) {
    return [{ name: "cache", state: "not used", text: "running from source, nothing is unpacked" }];
  }
  return cacheFolders().map((folder) => {
    const state = writable(folder) ? "ready" : "not used";
    return { name: "cache", state, text: state === "ready" ? folder : `${folder} cannot be written` };
  });
}

/** Whether files can be made in a folder; tried, since permissions do not tell all of it. */
function writable(folder: string): boolean {
  try {
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    rmSync(mkdtempSync(join(folder, "probe-")), { recursive: true });
    return true;
  } catch {
    return false;
  }
}

function modelFinding(): Finding {
  try {
    return { name: "built-in model", state: "ready", text: defaultModelPath() };
  } catch (error) {
    return {
      name: "built-in model",
      state: "not used",
      text: error instanceof Error ? error.message : String(error),
    };
  }
}
