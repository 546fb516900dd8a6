import { type Drawing, dotRadius, inks, lineWidth, type Mark, textSize } from "./drawing.ts";

const number = (n: number): string => n.toFixed(1);
const escaped = (text: string): string =>
  text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

const style = [
  `text{font:${textSize}px sans-serif;fill:${inks.text}}.bold{font-weight:bold}.end{text-anchor:end}`,
  ...(["grid", "line"] as const).map((ink) => `.${ink}{stroke:${inks[ink]};stroke-width:${lineWidth[ink]}}`),
  `polyline{fill:none}.dot{fill:${inks.dot}}`,
].join("");

function drawn(mark: Mark): string {
  switch (mark.kind) {
    case "line": {
      const points = mark.points.map(([x, y]) => `${number(x)},${number(y)}`).join(" ");
      return `<polyline points="${points}" class="${mark.ink}"/>`;
    }
    case "dot":
      return `<circle cx="${number(mark.at[0])}" cy="${number(mark.at[1])}" r="${dotRadius}" class="dot"/>`;
    case "text": {
      const classes = [...(mark.bold ? ["bold"] : []), ...(mark.anchor === "end" ? ["end"] : [])].join(" ");
      const place = `x="${number(mark.at[0])}" y="${number(mark.at[1])}"`;
      return `<text ${place}${classes && ` class="${classes}"`}>${escaped(mark.text)}</text>`;
    }
  }
}

/** A drawing as SVG text. */
export function svgOf({ title, width, height, marks }: Drawing): string {
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}">`,
    `<title>${escaped(title)}</title>`,
    `<style>${style}</style>`,
    `<rect width="${width}" height="${height}" fill="#fff"/>`,
    ...marks.map(drawn),
    "</svg>\n",
  ].join("\n");
}
