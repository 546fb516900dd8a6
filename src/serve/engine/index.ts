export { type EngineClient, type OnProgress, type OnWarning, startEngine } from "./client.ts";
export { availableMemory } from "./memory.ts";
export type { LoadProgress } from "./messages.ts";
export { type ModelPlan, planModel } from "./model_plan.ts";
