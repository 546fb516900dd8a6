/** Names of what grouped stages leave, in a contribution's folder and in the upstream's `artifacts/resolved/`. */

export const outputTransportName = "grouped_stage_output_transport.json";
export const outputPayloadName = "grouped_stage_output_payload.json";
export const executionSummaryName = "grouped_stage_execution_summary.json";

export type TensorKind = "activation" | "gradient";
/** Whatever passes between stages in a step; a norm has no tensor. */
export type Crossing = TensorKind | "norm";
const stems = {
  ...{ activation: "grouped_stage_output", gradient: "grouped_stage_gradient" },
  norm: "grouped_stage_norm",
} as const;

const crossings = Object.keys(stems) as readonly Crossing[];

/** The files of a step. */
export function stepNames(kind: Crossing, step: number) {
  const stem = stems[kind];
  return {
    transport: `${stem}_transport.step-${step}.json`,
    payload: `${stem}_payload.step-${step}.json`,
    tensor: `${stem}_payload.step-${step}.f32.zst`,
  };
}

/** What a stage was given for a step, by the kinds that its artifact manifest lists copies of it as. */
const inputs = { ...stems, activation: "grouped_stage_input" } as const;
const padded = (step: number): string => `step_${String(step).padStart(6, "0")}`;

export const givenPayloadKind = (kind: Crossing, step: number): string =>
  `${inputs[kind]}_payload_${padded(step)}`;
export const givenTensorKind = (kind: TensorKind, step: number): string =>
  `${inputs[kind]}_tensor_${padded(step)}`;
/** What it made of them: activations and norms for downstream, gradients for upstream. */
export const madePayloadKind = (kind: Crossing, step: number): string =>
  `grouped_stage_made_${kind}_${padded(step)}`;

/** The artifact kind of a file among a contribution's copies; undefined where it is none of a step. */
export const givenKindOf = (name: string): string | undefined =>
  /^(grouped_stage_(?:input|gradient|norm)_(?:payload|tensor)_step_\d+)\.(?:json|f32\.zst)$/.exec(name)?.[1];

/** The artifact kind of a document in a contribution's folder; undefined where it is none of a step. */
export function madeKindOf(name: string): string | undefined {
  const [, stem, step] = /^(grouped_stage_[a-z]+)_payload\.step-(\d+)\.json$/.exec(name) ?? [];
  const kind = crossings.find((crossing) => stems[crossing] === stem);
  return kind && madePayloadKind(kind, Number(step));
}

/** The step of a stage's file; undefined where it is none of a step. */
export function stepOfFile(name: string): number | undefined {
  const found = /^grouped_stage_.*[._]step[-_](\d+)\./.exec(name)?.[1];
  return found === undefined ? undefined : Number(found);
}
