import { findCuda, findMetal, hasNvidiaHardware } from "../../backends/index.ts";
import { PsionicError, unexpected } from "../../core/error.ts";
import type { EngineBackend } from "../../ir/op.ts";
import { list, UsageError, wholeNumber } from "../../terminal/command.ts";
import { messages } from "../../terminal/output.ts";

/** Where to compute, for every command that does. */
export const backendOption = {
  backend: {
    type: "enum",
    options: list("auto", "cpu", "cuda", "metal", "metal-standin"),
    default: "auto",
    description:
      "Device to compute on; auto: a CUDA device or a Mac's GPU if one is there, else the CPU. metal-standin runs Metal's " +
      "kernels on the CPU, for tests",
  },
  device: {
    type: "string",
    alias: list("mg", "main-gpu"),
    valueHint: "N",
    description: "Which GPU, by its number; absent: 0",
  },
} as const;

/** The backend that computes. `auto` says so when a GPU is there that it cannot take. */
export function resolveBackend(asked: string): EngineBackend {
  if (asked === "cpu" || asked === "cuda" || asked === "metal-standin") return asked;
  if (asked === "metal") return metalOrRefusal();
  if (asked !== "auto") {
    const text = `[backend] expected auto, cpu or cuda, got ${asked}. This build has no ${asked} backend`;
    throw new PsionicError("unsupported", text);
  }
  if (process.platform === "darwin") return metalOrCpu();
  const { hardware, devices, reason } = hardwareFindings();
  if (devices.length > 0) return "cuda";
  if (hardware) messages.warn(`Computing on the CPU; the GPU is not used: ${reason}`);
  return "cpu";
}

function metalOrRefusal(): "metal" {
  const { device, reason } = findMetal();
  if (device) return "metal";
  throw metalRefusal(process.platform, reason);
}

function metalOrCpu(): "metal" | "cpu" {
  const { device, reason } = findMetal();
  if (device) return "metal";
  messages.warn(`Computing on the CPU; the GPU is not used: ${reason}`);
  return "cpu";
}

/** The Metal lane computes on a Mac or not at all; who asks for it never gets another device instead. */
export function metalRefusal(
  platform: string = process.platform,
  reason = "no metal backend in this build",
): PsionicError {
  return unexpected(
    "unsupported",
    "backend",
    "a Mac with Apple silicon and a build with Metal kernels for metal",
    platform === "darwin"
      ? reason
      : `${platform}, where there is no Metal, and no metal backend in this build`,
    {
      fix:
        "backend=metal, execution_mode=native, fallback_policy=refuse: that lane is refused here and never runs on the " +
        "CPU. Ask for --backend auto, cpu or cuda",
      details: { backend: "metal", execution_mode: "native", fallback_policy: "refuse", platform },
    },
  );
}

/** The first device; nothing is loaded where the system shows none. */
function hardwareFindings(): ReturnType<typeof findCuda> {
  return hasNvidiaHardware() ? findCuda(1) : { hardware: false, devices: [], refused: [] };
}

type DeviceArgs = {
  readonly device?: string | undefined;
  readonly threads?: string | undefined;
  readonly isa?: string | undefined;
};

/** The numbers as they are written, whatever the backend. */
export function checkDeviceNumbers(args: DeviceArgs): {
  readonly device?: number;
  readonly threads?: number;
} {
  const device = wholeNumber(args.device, "--device", 0, 1023);
  const threads = wholeNumber(args.threads, "--threads", 1, 1024);
  return { ...(device === undefined ? {} : { device }), ...(threads === undefined ? {} : { threads }) };
}

/** Numbers of `--device` and `--threads`; options of the other backend are wrong usage. */
export function deviceNumbers(
  args: DeviceArgs,
  backend: EngineBackend,
): ReturnType<typeof checkDeviceNumbers> {
  const numbers = checkDeviceNumbers(args);
  if (backend !== "cuda" && numbers.device !== undefined && !(backend === "metal" && numbers.device === 0))
    throw new UsageError("--device goes with --backend cuda");
  if (backend !== "cpu" && numbers.threads !== undefined)
    throw new UsageError("--threads goes with --backend cpu");
  if (backend !== "cpu" && args.isa !== undefined) throw new UsageError("--isa goes with --backend cpu");
  return numbers;
}
