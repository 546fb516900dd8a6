import { describe } from "bun:test";
import { sampleTests } from "../sample_case.ts";
import { memory, metal, onFibers, path } from "./library.ts";

describe.skipIf(!path)("sample on Metal", () => {
  sampleTests(metal, memory, onFibers);
});
