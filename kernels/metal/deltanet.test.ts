/** Gated DeltaNet layers: the convolution and the delta rule against the references, in one call and in several. */
import { describe, expect, test } from "bun:test";
import { floats, randomFloats } from "../cpu/library.ts";
import { ints, largestError, runReference } from "../cpu/twins.ts";
import { check, deviceBytes, floatsFromDevice, metal, onDevice, path } from "./library.ts";

/** Two sequences that go on or begin, in slots 2 and 0 of 3. */
const sequence = ints([0, 0, 0, 1, 1]);
const position = ints([4, 5, 6, 0, 1]);
const slot = ints([2, 0]);
const [tokens, slots] = [5, 3];

describe.skipIf(!path)("DeltaNet on Metal", () => {
  test.each([2, 4, 8])("causal_conv1d of %d taps", (taps) => {
    const [channels, stride] = [70, 80];
    const x = randomFloats(tokens * stride, 1);
    const w = randomFloats(channels * taps, 2).map((v) => v / 8);
    const state = randomFloats(slots * (taps - 1) * channels, 3);
    const want = floats(tokens * channels);
    const wantState = state.slice();
    const sizes = [stride, 10, channels, taps, 2, slots] as const;
    runReference("causal_conv1d", want, wantState, x, w, sequence, position, slot, tokens, ...sizes);
    const [y, s] = [deviceBytes(4 * want.length), onDevice(state)];
    const of = [onDevice(sequence), onDevice(position), onDevice(slot)] as const;
    check(metal.psi_causal_conv1d!(y, s, onDevice(x), onDevice(w), ...of, tokens, ...sizes));
    const got = floatsFromDevice(y, want.length);
    expect(largestError(got, want)).toBeLessThan(5e-6);
    expect(floatsFromDevice(s, state.length)).toEqual(wantState);
    // token by token
    const s1 = onDevice(state);
    for (let t = 0; t < tokens; t++) {
      const one = [
        onDevice(sequence.slice(t, t + 1)),
        onDevice(position.slice(t, t + 1)),
        onDevice(slot),
      ] as const;
      const row = onDevice(x.slice(t * stride, (t + 1) * stride));
      check(metal.psi_causal_conv1d!(y, s1, row, onDevice(w), ...one, 1, ...sizes));
      expect(floatsFromDevice(y, channels)).toEqual(got.subarray(t * channels, (t + 1) * channels));
    }
    expect(floatsFromDevice(s1, state.length)).toEqual(wantState);
  });

  test.each([0, 1])("gated_delta_rule, tiled %d", (tiled) => {
    const [keyHeads, valueHeads, keyDim, valueDim] = [2, 4, 40, 10];
    const [keys, values] = [keyHeads * keyDim, valueHeads * valueDim];
    const stride = 2 * keys + values + 4;
    const qkv = randomFloats(tokens * stride, 1);
    const [a, b] = [randomFloats(tokens * 6, 2), randomFloats(tokens * 4, 3)];
    const [decay, bias] = [randomFloats(valueHeads, 4).map((v) => -Math.abs(v)), randomFloats(valueHeads, 5)];
    const state = randomFloats(slots * valueHeads * keyDim * valueDim, 6).map((v) => v / 8);
    const want = floats(tokens * values);
    const wantState = state.slice();
    const layout = [
      stride,
      4,
      4 + keys,
      4 + 2 * keys,
      6,
      2,
      4,
      0,
      keyHeads,
      valueHeads,
      keyDim,
      valueDim,
      2,
      slots,
      tiled,
    ] as const;
    runReference(
      "gated_delta_rule",
      want,
      wantState,
      qkv,
      a,
      b,
      decay,
      bias,
      sequence,
      position,
      slot,
      tokens,
      ...layout,
    );
    const [y, s] = [deviceBytes(4 * want.length), onDevice(state)];
    const given = [qkv, a, b, decay, bias, sequence, position, slot].map(onDevice);
    check(metal.psi_gated_delta_rule!(y, s, ...given, tokens, ...layout));
    const got = floatsFromDevice(y, want.length);
    expect(largestError(got, want)).toBeLessThan(2e-5);
    expect(largestError(floatsFromDevice(s, state.length), wantState)).toBeLessThan(2e-5);
    const s1 = onDevice(state);
    for (let t = 0; t < tokens; t++) {
      const rows = [
        qkv.slice(t * stride, (t + 1) * stride),
        a.slice(t * 6, (t + 1) * 6),
        b.slice(t * 4, (t + 1) * 4),
      ];
      const one = [...rows, decay, bias, sequence.slice(t, t + 1), position.slice(t, t + 1), slot].map(
        onDevice,
      );
      check(metal.psi_gated_delta_rule!(y, s1, ...one, 1, ...layout));
      expect(floatsFromDevice(y, values)).toEqual(got.subarray(t * values, (t + 1) * values));
    }
    expect(floatsFromDevice(s1, state.length)).toEqual(floatsFromDevice(s, state.length));
  });

  test("a sequence without a slot begins from zeros and keeps nothing; channels outside are refused", () => {
    const [s, y] = [onDevice(randomFloats(8, 1)), deviceBytes(64)];
    const [x, w, at] = [
      onDevice(Float32Array.of(1, 2)),
      onDevice(Float32Array.of(5, 1, 5, 1)),
      onDevice(ints([0])),
    ];
    check(
      metal.psi_causal_conv1d!(
        y,
        s,
        x,
        w,
        at,
        onDevice(ints([3])),
        onDevice(ints([-1])),
        1,
        2,
        0,
        2,
        2,
        1,
        1,
      ),
    );
    const silu = (v: number): number => v / (1 + Math.exp(-v));
    expect(largestError(floatsFromDevice(y, 2), Float32Array.of(silu(1), silu(2)))).toBeLessThan(1e-6);
    expect(floatsFromDevice(s, 8)).toEqual(randomFloats(8, 1));
    expect(() => check(metal.psi_causal_conv1d!(y, s, x, w, at, at, at, 1, 2, 1, 2, 2, 1, 1))).toThrow(
      /channels inside/,
    );
  });
});
