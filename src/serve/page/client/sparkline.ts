const svg = "http://www.w3.org/2000/svg";
const width = 300;
const height = 48;

/** A line of the last five minutes, newest at the right; one value a second. */
export class Sparkline {
  readonly node = document.createElementNS(svg, "svg");
  private readonly area = document.createElementNS(svg, "path");
  private readonly line = document.createElementNS(svg, "path");

  constructor() {
    this.node.setAttribute("class", "sparkline");
    this.node.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.node.setAttribute("preserveAspectRatio", "none");
    this.node.setAttribute("role", "img");
    this.node.setAttribute("aria-label", "No figures yet");
    this.area.setAttribute("class", "area");
    this.line.setAttribute("class", "line");
    this.node.append(this.area, this.line);
  }

  /** `label` says in words what the line shows; `least` is the smallest value of the top of the scale. */
  update(values: readonly number[], label: string, least: number): void {
    this.node.setAttribute("aria-label", label);
    const top = Math.max(least, ...values) * 1.08;
    const x = (i: number): number => width - (values.length - 1 - i);
    const points = values.map(
      (value, i) => `${x(i)} ${(height - 1 - (value / top) * (height - 3)).toFixed(2)}`,
    );
    if (points.length < 2) {
      this.line.removeAttribute("d");
      this.area.removeAttribute("d");
      return;
    }
    this.line.setAttribute("d", `M${points.join("L")}`);
    this.area.setAttribute("d", `M${x(0)} ${height}L${points.join("L")}L${width} ${height}Z`);
  }
}
