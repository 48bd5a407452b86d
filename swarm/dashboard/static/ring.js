// The ring of hashes: 0 at the top, growing clockwise, an arc for each node. Hashes that no node has, and those that two
// have, are hatched; the ranges of nodes that overlap are drawn outside too, one beside the other. The arc of a node that
// is down is pale with a broken edge.

import { setAttribute, setText, svg } from "./elements.js";
import { counted, percent } from "./format.js";
import { fill } from "./table.js";

const OUTER = 92;
const WIDTH = 30;
const LANE_WIDTH = 6; // of the rings outside, for ranges that overlap
const LANES = 3; // there is no room for more
const SMALLEST = 0.006; // of the ring: what is smaller is drawn as large, to be seen
const NUMBERED = 0.035; // arcs as large have room for the node's number

export function drawRing(now) {
  const { arcs, problems } = now.ring;
  const picture = document.getElementById("ring");
  const some = arcs.length > 0;
  setAttribute(picture, "hidden", some ? null : "");
  setText(document.getElementById("ring-text"), describe(now));
  const drawn = JSON.stringify([now.ring, now.nodes.map((node) => node.up)]);
  if (picture.dataset.drawn !== drawn) {
    picture.dataset.drawn = drawn;
    const half = problems.some(({ kind }) => kind === "overlap") ? OUTER + 28 : OUTER + 6;
    setAttribute(picture, "viewBox", `${-half} ${-half} ${2 * half} ${2 * half}`);
    picture.replaceChildren(...(some ? picturesOf(now) : []));
  }
  fillTable(now, arcs, problems);
}

function describe({ nodes, ring: { arcs, problems, covered, served, unknown } }) {
  if (!nodes.some(({ kind }) => kind === "dht")) return "No dht node is watched.";
  if (!arcs.length) return "No dht node has answered yet, so nobody knows who has which hashes.";
  const kinds = ["gap", "overlap"].map((kind) => [problems.filter((each) => each.kind === kind).length, kind]);
  const found = kinds.filter(([number]) => number).map(([number, kind]) => counted(number, kind));
  const who = arcs.length === 1 ? "One node" : `${arcs.length} nodes`;
  const sentences = [
    found.length
      ? `${found.join(" and ")} between ${counted(arcs.length, "node")}: ${percent(covered)} of all hashes are covered.`
      : `${who} ${arcs.length === 1 ? "has" : "share"} all hashes, without gap or overlap.`,
  ];
  if (served < covered) sentences.push(`${percent(covered - served)} are on nodes that are down.`);
  if (unknown) sentences.push(`${counted(unknown, "node")} never answered: which hashes ${unknown > 1 ? "they have" : "it has"} is not known.`);
  return sentences.join(" ");
}

function picturesOf({ nodes, ring: { arcs, problems, served } }) {
  const parts = [svg("defs", {}, hatch("gap", 45), hatch("overlap", -45))];
  parts.push(svg("circle", { r: OUTER - WIDTH / 2, class: "track", "stroke-width": WIDTH }));
  let end = 0;
  for (const arc of arcs) {
    if (arc.to > end) parts.push(nodeArc(nodes[arc.node], arc, { from: Math.max(arc.from, end), to: arc.to }));
    end = Math.max(end, arc.to);
  }
  for (const problem of problems) {
    const title = svg("title", {}, `${problem.kind} ${problem.hashes}, ${percent(problem.share)}`);
    parts.push(svg("path", { d: sector(problem, OUTER - WIDTH, OUTER), class: `problem ${problem.kind}` }, title));
  }
  const overlapping = new Set(problems.flatMap((each) => each.nodes));
  for (const [arc, lane] of lanes(arcs.filter(({ node }) => overlapping.has(node)))) {
    const inner = OUTER + 4 + (lane % LANES) * (LANE_WIDTH + 2);
    parts.push(svg("path", { d: sector(arc, inner, inner + LANE_WIDTH), class: `outside ${colour(arc.node)}` }));
  }
  for (const tick of [0, 0.25, 0.5, 0.75]) parts.push(...tickAt(tick));
  parts.push(
    svg("text", { class: `middle${served < 1 ? " wrong" : ""}`, y: -3 }, percent(served)),
    svg("text", { class: "middle-note", y: 14 }, "within reach"),
  );
  return parts;
}

function hatch(kind, degrees) {
  const attributes = { id: `hatch-${kind}`, width: 5, height: 5, patternUnits: "userSpaceOnUse", patternTransform: `rotate(${degrees})` };
  return svg("pattern", attributes,
    svg("rect", { width: 5, height: 5, class: `${kind}-ground` }),
    svg("line", { x1: 0, y1: 0, x2: 0, y2: 5, class: `${kind}-line` }),
  );
}

/** Each arc with the ring outside that it is drawn in: the first whose arcs have none of its hashes. */
function lanes(arcs) {
  const ends = [];
  return arcs.map((arc) => {
    let lane = ends.findIndex((end) => end <= arc.from);
    if (lane === -1) lane = ends.length;
    ends[lane] = arc.to;
    return [arc, lane];
  });
}

function nodeArc(node, arc, { from, to }) {
  const title = `${node.address}: ${percent(arc.share)} of all hashes, ${node.hashes}${node.up ? "" : ", down"}`;
  const group = svg("g", { class: `arc ${colour(arc.node)}${node.up ? "" : " down"}` },
    svg("title", {}, title),
    svg("path", { d: sector({ from, to }, OUTER - WIDTH, OUTER) }),
  );
  if (to - from >= NUMBERED) {
    const [x, y] = at((from + to) / 2, OUTER - WIDTH / 2);
    group.append(svg("text", { x, y, "font-size": 13 }, String(arc.node + 1)));
  }
  return group;
}

function sector({ from, to }, inner, outer) {
  if (to - from < SMALLEST) [from, to] = [(from + to - SMALLEST) / 2, (from + to + SMALLEST) / 2];
  if (to - from >= 0.9999) {
    const circle = (radius, turn) => `M0 ${-radius}A${radius} ${radius} 0 1 ${turn} 0 ${radius}A${radius} ${radius} 0 1 ${turn} 0 ${-radius}Z`;
    return circle(outer, 1) + circle(inner, 0);
  }
  const large = to - from > 0.5 ? 1 : 0;
  const [a, b, c, d] = [at(from, outer), at(to, outer), at(to, inner), at(from, inner)];
  return `M${a}A${outer} ${outer} 0 ${large} 1 ${b}L${c}A${inner} ${inner} 0 ${large} 0 ${d}Z`;
}

function at(part, radius) {
  const angle = part * 2 * Math.PI;
  return [Math.sin(angle) * radius, -Math.cos(angle) * radius].map((each) => Number(each.toFixed(2)));
}

function tickAt(part) {
  const [[x1, y1], [x2, y2]] = [at(part, OUTER - WIDTH - 1), at(part, OUTER - WIDTH - 6)];
  const [x, y] = at(part, OUTER - WIDTH - 14);
  const label = ["0", "¼", "½", "¾"][part * 4];
  return [svg("line", { x1, y1, x2, y2, class: "tick" }), svg("text", { x, y, class: "tick-label" }, label)];
}

export function colour(number) {
  return `colour-${number % 8}`;
}

function fillTable(now, arcs, problems) {
  const rows = [...arcs, ...problems].sort((one, other) => one.from - other.from || one.to - other.to);
  const columns = [
    {
      title: "Node", primary: true,
      swatch: ({ kind, node }) => kind ?? colour(node),
      text: ({ kind, node, nodes }) => {
        if (kind) return kind === "gap" ? "gap" : `overlap of ${nodes.map((each) => each + 1).join(" and ")}`;
        return `${node + 1} · ${now.nodes[node].address}${now.nodes[node].up ? "" : " (down)"}`;
      },
      state: ({ kind, node }) => (kind || !now.nodes[node].up ? "bad" : null),
    },
    { title: "Share", number: true, text: ({ share }) => percent(share) },
    { title: "Hashes", text: (row) => (row.hashes ?? now.nodes[row.node].hashes).replace("-", " –\n") },
  ];
  fill(document.getElementById("ring-table"), columns, rows, ({ kind, node, from, to }) => `${kind} ${node} ${from} ${to}`, "");
}
