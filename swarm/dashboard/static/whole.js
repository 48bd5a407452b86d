// The swarm as a whole: its figures, and everything that is wrong with it, in one list.

import { element, keep, setAttribute, setText } from "./elements.js";
import { bytes, count, milliseconds, percent, rate, short, UNKNOWN } from "./format.js";

export function drawTiles(now) {
  const up = now.nodes.filter((node) => node.up);
  const sum = (name) => up.reduce((total, node) => total + (node[name] ?? 0), 0);
  const slowest = up.reduce((worst, node) => Math.max(worst, node.p99_ms ?? -1), -1);
  const errors = sum("errors");
  const rates = up.filter((node) => node.requests_per_s !== null);
  const tiles = [
    ["Nodes up", `${up.length} of ${now.nodes.length}`, up.length === now.nodes.length ? null : "bad"],
    ["Requests/s", rates.length ? rate(sum("requests_per_s")) : UNKNOWN],
    ["99 % within", slowest < 0 ? UNKNOWN : milliseconds(slowest), null, "So fast are 99 of 100 requests, on the slowest node"],
    ["Connections", count(sum("connections"))],
    ["Records", short(sum("records"))],
    ["Stored", bytes(sum("bytes")), null, "Bytes of keys, values and records, without what the nodes need to hold them"],
    ["Memory", bytes(sum("rss_bytes")), null, "Of all node processes together"],
    ["Errors", up.length ? short(errors) : UNKNOWN, errors ? "warn" : null, "Requests that failed and connections that broke the protocol, since the nodes' start"],
  ];
  keep(
    document.getElementById("tiles"), tiles, ([title]) => title,
    ([title]) => element("div", { class: "tile" }, element("dt", {}, title), element("dd")),
    (tile, [, value, state, hint]) => {
      setText(tile.lastChild, value);
      setAttribute(tile, "data-state", state ?? null);
      setAttribute(tile, "title", hint ?? null);
    },
  );
}

/** What is to be done about, the worst first: {state, where, text}. */
export function problemsOf(now, names) {
  const found = [];
  now.nodes.forEach((node, number) => {
    if (!node.up) found.push({ state: "bad", where: names[number], text: `down: ${node.error ?? "not asked yet"}` });
  });
  for (const { kind, share, hashes, nodes } of now.ring.problems) {
    const whose = kind === "gap" ? "no node is responsible" : `${nodes.map((each) => names[each]).join(" and ")} are both responsible`;
    found.push({ state: "bad", where: `${kind} in the hash ring`, text: `${whose} for ${percent(share)} of all hashes, ${hashes}` });
  }
  for (const { node, rule, text } of now.findings.first) found.push({ state: "warn", where: `${names[node]}, ${rule}`, text });
  if (now.findings.others) found.push({ state: "warn", where: "and", text: `${count(now.findings.others)} findings more` });
  return found;
}

export function drawFindings(now, problems) {
  const rows = problems.length
    ? problems
    : [now.nodes.length ? { state: "good", where: "Nothing found.", text: "All nodes answer, and none warns of anything." } : { state: "warn", where: "No nodes are watched", text: "Name them when the dashboard is started." }];
  document.getElementById("findings-card").classList.toggle("calm", !problems.length);
  setAttribute(document.getElementById("findings-card"), "data-worst", problems[0]?.state ?? null);
  keep(
    document.getElementById("findings"), rows, ({ where, text }) => `${where} ${text.slice(0, 60)}`,
    () => element("li", {}, element("span", { class: "text" }), " ", element("span")),
    (line, { state, where, text }) => {
      setAttribute(line.firstChild, "data-state", state);
      setText(line.firstChild, state === "good" ? where : `${where}:`);
      setText(line.lastChild, text);
    },
  );
}
