/** Names of what grouped stages leave, in a contribution's folder and in the upstream's `artifacts/resolved/`. */

export const outputTransportName = "grouped_stage_output_transport.json";
export const outputPayloadName = "grouped_stage_output_payload.json";
export const executionSummaryName = "grouped_stage_execution_summary.json";

export type TensorKind = "activation" | "gradient";
const stems = { activation: "grouped_stage_output", gradient: "grouped_stage_gradient" } as const;

/** The three files of a step. */
export function stepNames(kind: TensorKind, step: number) {
  const stem = stems[kind];
  return {
    transport: `${stem}_transport.step-${step}.json`,
    payload: `${stem}_payload.step-${step}.json`,
    tensor: `${stem}_payload.step-${step}.f32.zst`,
  };
}

/** What a stage was given for a step, by the kinds that its artifact manifest lists copies of it as. */
const inputs = { activation: "grouped_stage_input", gradient: "grouped_stage_gradient" } as const;
const padded = (step: number): string => `step_${String(step).padStart(6, "0")}`;

export const givenPayloadKind = (kind: TensorKind, step: number): string =>
  `${inputs[kind]}_payload_${padded(step)}`;
export const givenTensorKind = (kind: TensorKind, step: number): string =>
  `${inputs[kind]}_tensor_${padded(step)}`;
/** What it made of them: activations for downstream, gradients for upstream. */
export const madePayloadKind = (kind: TensorKind, step: number): string =>
  `grouped_stage_made_${kind}_${padded(step)}`;

/** The artifact kind of a file among a contribution's copies; undefined where it is none of a step. */
export const givenKindOf = (name: string): string | undefined =>
  /^(grouped_stage_(?:input|gradient)_(?:payload|tensor)_step_\d+)\.(?:json|f32\.zst)$/.exec(name)?.[1];

/** The artifact kind of a document in a contribution's folder; undefined where it is none of a step. */
export function madeKindOf(name: string): string | undefined {
  const found = /^grouped_stage_(output|gradient)_payload\.step-(\d+)\.json$/.exec(name);
  return found
    ? madePayloadKind(found[1] === "output" ? "activation" : "gradient", Number(found[2]))
    : undefined;
}

/** The step of a stage's file; undefined where it is none of a step. */
export function stepOfFile(name: string): number | undefined {
  const found = /^grouped_stage_.*[._]step[-_](\d+)\./.exec(name)?.[1];
  return found === undefined ? undefined : Number(found);
}
