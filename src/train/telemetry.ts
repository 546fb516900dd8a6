/** How the device that trains is doing, as far as this machine says it. */
import { freemem, totalmem } from "node:os";
import type { TrainingBackend } from "./plan.ts";

/** null: not measured here. */
export type Telemetry = {
  readonly temperatureCelsius: number | null;
  readonly eccUncorrectedErrors: number | null;
  readonly throttling: boolean | null;
  readonly migPartitioned: boolean | null;
  /** Share of memory that is free, 0..1; of a device only its own run decides that. */
  readonly freeShare: number | null;
};

const query =
  "temperature.gpu,ecc.errors.uncorrected.volatile.total,clocks_throttle_reasons.active,mig.mode.current";
/** Slowed down by heat or by its power supply; a limit of power alone is usual at work. */
const slowdown = 0x8 | 0x20 | 0x40 | 0x80;

export function telemetryOf(backend: TrainingBackend): Telemetry {
  if (backend === "cuda") return parsedTelemetry(nvidiaSmi() ?? "");
  const none = {
    temperatureCelsius: null,
    eccUncorrectedErrors: null,
    throttling: null,
    migPartitioned: null,
  };
  return { ...none, freeShare: freemem() / totalmem() };
}

/** What nvidia-smi says of the first device that may be used; undefined where there is no such program. */
function nvidiaSmi(): string | undefined {
  const program = Bun.which("nvidia-smi");
  if (!program) return undefined;
  const device = process.env.CUDA_VISIBLE_DEVICES?.split(",")[0] || "0";
  const done = Bun.spawnSync(
    [program, `--query-gpu=${query}`, "--format=csv,noheader,nounits", "-i", device],
    {
      ...{ stdout: "pipe", stderr: "ignore", timeout: 5000 },
    },
  );
  return done.exitCode === 0 ? String(done.stdout) : undefined;
}

/** A line of nvidia-smi's CSV; what it does not know, such as `[N/A]`, is null. */
export function parsedTelemetry(line: string): Telemetry {
  const [heat, ecc, reasons, mig] = line.split(",").map((field) => field.trim());
  const whole = (text: string | undefined): number | null =>
    text && /^\d+$/.test(text) ? Number(text) : null;
  const mask = reasons && /^0x[0-9a-f]+$/i.test(reasons) ? Number(reasons) : null;
  return {
    temperatureCelsius: whole(heat),
    eccUncorrectedErrors: whole(ecc),
    // masks of 64 bits whose upper half is not in use
    throttling: mask === null ? null : (mask & slowdown) !== 0,
    migPartitioned: mig === "Enabled" ? true : mig === "Disabled" ? false : null,
    freeShare: null,
  };
}

/** From here on a device is too hot; below this share memory is short. */
const [mostCelsius, leastFreeShare] = [85, 0.01];

/** What is wrong with it; none where all is well, or nothing was measured. */
export function ailments(t: Telemetry): string[] {
  const found: string[] = [];
  if ((t.temperatureCelsius ?? 0) >= mostCelsius) found.push(`It is ${t.temperatureCelsius} °C hot.`);
  if ((t.eccUncorrectedErrors ?? 0) > 0)
    found.push(`Its memory had ${t.eccUncorrectedErrors} errors that were not corrected.`);
  if (t.throttling) found.push("It is slowed down by heat or its power supply.");
  if (t.freeShare !== null && t.freeShare < leastFreeShare)
    found.push(`Of the machine's memory ${(100 * t.freeShare).toFixed(1)} % is free.`);
  return found;
}

export const isMeasured = (t: Telemetry): boolean =>
  [t.temperatureCelsius, t.eccUncorrectedErrors, t.throttling].some((value) => value !== null);
