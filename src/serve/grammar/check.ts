import { edge, edgeWords, maxDepth, never, type Program } from "./program.ts";
import { refused } from "./refusal.ts";

/** Edges by one of their ends: those of node n are `edges[starts[n]..starts[n + 1]]`, numbers of edges. */
export type EdgeIndex = { readonly starts: Int32Array; readonly edges: Int32Array };

export function indexEdges({ nodes, edges }: Pick<Program, "nodes" | "edges">, end: 0 | 1): EdgeIndex {
  const count = edges.length / edgeWords;
  const starts = new Int32Array(nodes + 1);
  for (let e = 0; e < count; e++) starts[edges[e * edgeWords + end]! + 1]! += 1;
  for (let n = 0; n < nodes; n++) starts[n + 1]! += starts[n]!;
  const fill = starts.slice(0, nodes);
  const order = new Int32Array(count);
  for (let e = 0; e < count; e++) {
    const node = edges[e * edgeWords + end]!;
    order[fill[node]!++] = e;
  }
  return { starts, edges: order };
}

/** A program of which nothing is known yet. */
export type BareProgram = Omit<Program, "needs">;

/** Gives the needs of the nodes; throws `unsupported` for a grammar that no text matches, or one with a rule that may begin with itself. */
export function checkProgram(program: BareProgram): Int32Array {
  refuseLeftRecursion(program);
  const { nodes, rules } = depthNeeds(program);
  if (rules[program.root]! > maxDepth) {
    throw refused(
      "grammar",
      "a grammar that some text matches",
      "one that no text of a bounded depth matches",
    );
  }
  return nodes;
}

/**
 * How many rules deep a text must go at least, from a node to the end of its rule, and for each rule; `never` where there is
 * no way. Nodes are settled in the order of their needs, as in Knuth's generalisation of Dijkstra's algorithm.
 */
function depthNeeds(program: BareProgram): { readonly nodes: Int32Array; readonly rules: Int32Array } {
  const { edges, rules } = program;
  const into = indexEdges(program, 1);
  const calls = callSites(program);
  const need = new Int32Array(program.nodes).fill(never);
  const ruleNeed = new Int32Array(rules.length).fill(never);
  const starts = new Map<number, number[]>();
  const settled = new Uint8Array(program.nodes);
  const buckets: number[][] = [[]];
  const offer = (node: number, value: number): void => {
    if (value > maxDepth || value >= need[node]!) return;
    need[node] = value;
    buckets[value] ??= [];
    buckets[value].push(node);
  };
  // a rule at the very end of another takes its place
  const out = indexEdges(program, 0);
  const ends = new Set(rules.map((rule) => (rule.kind === "nodes" ? rule.end : -1)));
  const callNeed = (callee: number, to: number): number => {
    const isLast = ends.has(to) && out.starts[to] === out.starts[to + 1];
    return Math.max(need[to]!, ruleNeed[callee]! + (isLast ? 0 : 1));
  };
  rules.forEach((rule, r) => {
    if (rule.kind === "nodes") {
      const list = starts.get(rule.start);
      if (list) list.push(r);
      else starts.set(rule.start, [r]);
      offer(rule.end, 0);
    } else if (rule.kind === "loop" ? rule.min === 0 || rule.ranges.length > 0 : rule.words.length > 0) {
      ruleNeed[r] = 0;
    }
  });
  for (let value = 0; value < buckets.length; value++) {
    const bucket = buckets[value] ?? [];
    for (let i = 0; i < bucket.length; i++) {
      const node = bucket[i]!;
      if (settled[node] || need[node] !== value) continue;
      settled[node] = 1;
      for (let e = into.starts[node]!; e < into.starts[node + 1]!; e++) {
        const at = into.edges[e]! * edgeWords;
        offer(edges[at]!, edges[at + 2] === edge.rule ? callNeed(edges[at + 3]!, node) : value);
      }
      for (const r of starts.get(node) ?? []) {
        ruleNeed[r] = value;
        for (const site of calls[r] ?? []) {
          const to = edges[site * edgeWords + 1]!;
          if (settled[to]) offer(edges[site * edgeWords]!, callNeed(r, to));
        }
      }
    }
  }
  return { nodes: need, rules: ruleNeed };
}

function callSites({ edges, rules }: BareProgram): readonly number[][] {
  const calls: number[][] = rules.map(() => []);
  for (let e = 0; e * edgeWords < edges.length; e++) {
    if (edges[e * edgeWords + 2] === edge.rule) calls[edges[e * edgeWords + 3]!]!.push(e);
  }
  return calls;
}

/** Rules that another may begin with, before it has taken anything; a circle of them has no end. */
function refuseLeftRecursion(program: BareProgram): void {
  const first = firstCalls(program);
  // 1: on the path, 2: done
  const state = new Uint8Array(program.rules.length);
  for (let r = 0; r < first.length; r++) {
    if (state[r] !== 0) continue;
    const path = [{ rule: r, next: 0 }];
    state[r] = 1;
    while (path.length > 0) {
      const top = path.at(-1)!;
      const callee = first[top.rule]![top.next++];
      if (callee === undefined) {
        state[top.rule] = 2;
        path.pop();
      } else if (state[callee] === 1) {
        throw refused("grammar", "rules that do not begin with themselves", "a left-recursive rule", {
          keyword: "left recursion",
          fix: "Write the repetition with * or +, or put the recursion last",
        });
      } else if (state[callee] === 0) {
        state[callee] = 1;
        path.push({ rule: callee, next: 0 });
      }
    }
  }
}

/** For each rule those that it may call before it has taken a byte. */
function firstCalls(program: BareProgram): readonly number[][] {
  const { edges, rules } = program;
  const out = indexEdges(program, 0);
  const first: number[][] = rules.map(() => []);
  const owner = new Int32Array(program.nodes).fill(-1);
  const ends = new Map<number, number>();
  const nullable = new Uint8Array(rules.length);
  /** Nodes that wait for a rule to turn out to match the empty text. */
  const waiting: number[][] = rules.map(() => []);
  const work: number[] = [];
  const visit = (node: number, rule: number): void => {
    if (owner[node] !== -1) return;
    owner[node] = rule;
    work.push(node);
  };
  const becomesNullable = (r: number): void => {
    if (nullable[r]) return;
    nullable[r] = 1;
    for (const e of waiting[r]!) visit(edges[e * edgeWords + 1]!, owner[edges[e * edgeWords]!]!);
  };
  rules.forEach((rule, r) => {
    if (rule.kind === "nodes") {
      ends.set(rule.end, r);
      visit(rule.start, r);
    } else if (rule.kind === "loop" ? rule.min === 0 : rule.words[0] === "") nullable[r] = 1;
  });
  for (let node = work.pop(); node !== undefined; node = work.pop()) {
    const rule = owner[node]!;
    if (ends.get(node) === rule) becomesNullable(rule);
    for (let i = out.starts[node]!; i < out.starts[node + 1]!; i++) {
      const e = out.edges[i]!;
      const at = e * edgeWords;
      const kind = edges[at + 2];
      if (kind === edge.empty) visit(edges[at + 1]!, rule);
      if (kind !== edge.rule) continue;
      const callee = edges[at + 3]!;
      first[rule]!.push(callee);
      if (nullable[callee]) visit(edges[at + 1]!, rule);
      else waiting[callee]!.push(e);
    }
  }
  return first;
}
