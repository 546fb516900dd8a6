import { describe, expect, test } from "bun:test";
import { PsionicError } from "../../core/error.ts";
import type { DeviceInfo } from "../../runtime/device.ts";
import { probe } from "./find.ts";

/** psi_open over cards: a name opens, an error does not, and past the last there is none of that number. */
const opening =
  (...cards: readonly (string | PsionicError)[]) =>
  (number: number): DeviceInfo => {
    const card = cards[number] ?? new PsionicError("invalid_argument", `no device ${number}`);
    if (card instanceof PsionicError) throw card;
    return { device: card, device_number: number };
  };
const old = new PsionicError("unsupported", "[cuda] expected a device of compute capability 8.0 or newer");

describe("CUDA devices that are found", () => {
  test("an old card is told of and hides none behind it", () => {
    const { devices, refused } = probe(64, opening(old, "a", "b"));
    expect(devices.map((facts) => facts.device)).toEqual(["a", "b"]);
    expect(refused).toEqual([old.message]);
    expect(probe(64, opening("a", old)).refused).toEqual([old.message]);
    expect(probe(1, opening("a", old)).refused).toEqual([]);
  });

  test("without a driver, which says the same of every number, it is said once", () => {
    let asked = 0;
    const none = new PsionicError("unsupported", "[cuda] expected a CUDA device, got none");
    const found = probe(64, () => {
      asked += 1;
      throw none;
    });
    expect(found).toEqual({ devices: [], refused: [none.message] });
    expect(asked).toBe(2);
  });
});
