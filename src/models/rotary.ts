/** Rotary frequencies: everything that differs between models goes into one table, so the kernel knows no scaling. */

export type RopeScaling =
  | { readonly type: "none" }
  | { readonly type: "linear"; readonly factor: number }
  /** YaRN (arXiv:2309.00071). `round`: the ramp's bounds are cut to whole pairs, as ggml does. */
  | {
      readonly type: "yarn";
      readonly factor: number;
      readonly originalContext: number;
      readonly betaFast: number;
      readonly betaSlow: number;
      readonly attentionFactor: number;
      readonly round: boolean;
    }
  | {
      readonly type: "llama3";
      readonly factor: number;
      readonly lowFactor: number;
      readonly highFactor: number;
      readonly originalContext: number;
    };

/** `invFreq` f32 [rotaryDims / 2]: angle per position of each pair; cos and sin are multiplied by `mscale`. */
export type Rotary = { readonly invFreq: Float32Array; readonly mscale: number };

/** `factors` are the divisors of a `rope_freqs` tensor. */
export function rotary(
  base: number,
  rotaryDims: number,
  scaling: RopeScaling,
  factors?: Float32Array,
): Rotary {
  const pairs = rotaryDims / 2;
  const invFreq = new Float32Array(pairs);
  for (let i = 0; i < pairs; i++) {
    const plain = base ** ((-2 * i) / rotaryDims) / (factors?.[i] ?? 1);
    invFreq[i] = plain * frequencyScale(plain, i, base, rotaryDims, scaling);
  }
  const mscale = scaling.type === "yarn" ? scaling.attentionFactor * (0.1 * Math.log(scaling.factor) + 1) : 1;
  return { invFreq, mscale };
}

function frequencyScale(
  plain: number,
  pair: number,
  base: number,
  rotaryDims: number,
  scaling: RopeScaling,
): number {
  switch (scaling.type) {
    case "none":
      return 1;
    case "linear":
      return 1 / scaling.factor;
    case "llama3": {
      const wavelength = (2 * Math.PI) / plain;
      const { originalContext: context, lowFactor, highFactor, factor } = scaling;
      if (wavelength < context / highFactor) return 1;
      if (wavelength > context / lowFactor) return 1 / factor;
      const smooth = (context / wavelength - lowFactor) / (highFactor - lowFactor);
      return (1 - smooth) / factor + smooth;
    }
    case "yarn": {
      const corrected = (rotations: number): number =>
        (rotaryDims * Math.log(scaling.originalContext / (2 * Math.PI * rotations))) / (2 * Math.log(base));
      let low = corrected(scaling.betaFast);
      let high = corrected(scaling.betaSlow);
      if (scaling.round) {
        low = Math.floor(low);
        high = Math.ceil(high);
      }
      low = Math.max(0, low);
      high = Math.min(rotaryDims - 1, high);
      const ramp = 1 - Math.min(1, Math.max(0, (pair - low) / Math.max(0.001, high - low)));
      return (1 / scaling.factor) * (1 - ramp) + ramp;
    }
  }
}
