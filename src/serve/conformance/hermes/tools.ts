import { isObject, parsed, textAt } from "../json.ts";

/** A tool that the loop offers and runs. */
export type LoopTool = {
  readonly name: string;
  readonly description: string;
  readonly parameters: Readonly<Record<string, unknown>>;
  readonly run: (args: unknown) => string;
};

const weather: Readonly<Record<string, string>> = {
  paris: JSON.stringify({ city: "Paris", condition: "sunny", temperature: "18C" }),
  tokyo: JSON.stringify({ city: "Tokyo", condition: "rainy", temperature: "12C" }),
};

/** Weather by the name of a city; two cities are known. */
export const getWeather: LoopTool = {
  name: "get_weather",
  description: "Current weather of a city",
  parameters: {
    type: "object",
    properties: { city: { type: "string", description: "Name of the city" } },
    required: ["city"],
    additionalProperties: false,
  },
  run: (args) => {
    const city = textAt(args, "city");
    return (
      weather[city.toLowerCase()] ?? JSON.stringify({ error: `unsupported city: ${city || "none given"}` })
    );
  },
};

function ofCity(city: "paris" | "tokyo"): LoopTool {
  return {
    name: `get_${city}_weather`,
    description: `Current weather of ${city === "paris" ? "Paris" : "Tokyo"}`,
    parameters: { type: "object", properties: {}, required: [], additionalProperties: false },
    run: () => weather[city]!,
  };
}

export const getParisWeather = ofCity("paris");
export const getTokyoWeather = ofCity("tokyo");

/** A call's result, as text for the model; what is wrong with a call is told to the model too. */
export function runTool(tools: readonly LoopTool[], name: string, args: string): string {
  const tool = tools.find((known) => known.name === name);
  if (!tool) return JSON.stringify({ error: `unknown tool: ${name}` });
  const value = args.trim() === "" ? {} : parsed(args);
  return isObject(value) ? tool.run(value) : JSON.stringify({ error: "arguments are not a JSON object" });
}
