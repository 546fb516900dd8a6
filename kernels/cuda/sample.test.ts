import { describe } from "bun:test";
import { sampleTests } from "../sample_case.ts";
import { cuda, memory, onFibers } from "./library.ts";

describe("sample", () => {
  sampleTests(cuda, memory, onFibers);
});
