/** What a chart consists of, before it becomes SVG or PNG. */

/** Place in pixels from the upper left corner. */
export type Place = readonly [x: number, y: number];

export const inks = {
  /** Lines of equal value. */
  grid: "#dddddd",
  line: "#1f6fb2",
  dot: "#c4501b",
  text: "#444444",
} as const;

export type Mark =
  | { readonly kind: "line"; readonly ink: "grid" | "line"; readonly points: readonly Place[] }
  | { readonly kind: "dot"; readonly at: Place }
  | {
      readonly kind: "text";
      /** Where the text's base line begins, or ends. */
      readonly at: Place;
      readonly text: string;
      readonly anchor: "start" | "end";
      readonly bold: boolean;
    };

export type Drawing = {
  readonly title: string;
  readonly width: number;
  readonly height: number;
  readonly marks: readonly Mark[];
};

export const lineWidth = { grid: 1, line: 1.5 } as const;
export const dotRadius = 3.5;
export const textSize = 12;
