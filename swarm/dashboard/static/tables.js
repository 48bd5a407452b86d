// The tables of nodes, queues, channels and events.

import { setText } from "./elements.js";
import { bytes, count, counted, duration, milliseconds, moment, rate, short, UNKNOWN } from "./format.js";
import { colour } from "./ring.js";
import { fill } from "./table.js";

const NEARLY_FULL = 90; // percent, from which on the node warns too

export function drawNodes(now, names) {
  const columns = [
    {
      title: "Node", primary: true,
      swatch: ({ number }) => colour(number),
      text: ({ node }) => `${node.kind} ${node.address}`,
      hint: ({ node }) => node.version,
    },
    { title: "State", text: ({ node }) => (node.up ? "up" : "down"), state: ({ node }) => (node.up ? (node.findings ? "warn" : "good") : "bad"), hint: ({ node }) => node.error ?? `for ${duration(node.uptime_s)}` },
    { title: "Up for", number: true, text: ({ node }) => (node.up ? duration(node.uptime_s) : UNKNOWN) },
    { title: "Requests/s", number: true, text: ({ node }) => rate(node.requests_per_s), hint: ({ node }) => kindsOf(node) },
    { title: "99 % within", number: true, text: ({ node }) => milliseconds(node.p99_ms), hint: ({ node }) => `median ${milliseconds(node.median_ms)}` },
    { title: "Clients", number: true, text: ({ node }) => (node.up ? count(node.connections) : UNKNOWN) },
    { title: "Records", number: true, text: ({ node }) => short(node.records), hint: ({ node }) => `${count(node.records)} in ${counted(node.channels, "channel")}` },
    { title: "Stored", number: true, text: ({ node }) => bytes(node.bytes) },
    {
      title: "Memory", number: true, limit: true,
      text: ({ node }) => (node.up ? bytes(node.rss_bytes) : UNKNOWN),
      bar: ({ node }) => (node.up && node.memory_limit && node.kind === "dht" ? node.memory_used / node.memory_limit : null),
      hint: ({ node }) => `records take ${bytes(node.memory_used)} of ${bytes(node.memory_limit)}`,
    },
    {
      title: "Fullest queue", number: true, limit: true,
      text: ({ node }) => (node.fullest ? `${node.fullest[1].toFixed(0)} %` : UNKNOWN),
      bar: ({ node }) => (node.fullest ? node.fullest[1] / 100 : null),
      hint: ({ node }) => node.fullest?.[0] ?? null,
    },
    { title: "Last dump", number: true, text: ({ node }) => (node.dump_age_s === null ? UNKNOWN : `${duration(node.dump_age_s)} ago`) },
    { title: "Errors", number: true, text: ({ node }) => (node.up ? count(node.errors) : UNKNOWN), state: ({ node }) => (node.up && node.errors ? "warn" : null) },
  ];
  const rows = now.nodes.map((node, number) => ({ node, number, class: node.up ? null : "down" }));
  fill(document.getElementById("nodes"), columns, rows, ({ number }) => names[number], "No nodes are watched.");
}

function kindsOf({ requests }) {
  const kinds = Object.entries(requests).filter(([, each]) => each > 0).map(([name, each]) => `${name} ${rate(each)}`);
  return kinds.slice(0, 8).join(", ") || null;
}

export function drawQueues(now, names) {
  const { fullest, others } = now.queues;
  const columns = [
    { title: "Queue", primary: true, text: ({ name }) => name },
    { title: "Node", text: ({ node }) => names[node] },
    { title: "Records", number: true, text: ({ records }) => short(records), hint: ({ unacknowledged }) => `${count(unacknowledged)} given and not acknowledged` },
    { title: "Consumers", number: true, text: ({ consumers }) => count(consumers) },
    {
      title: "Full", number: true, limit: true,
      text: ({ percent }) => `${percent.toFixed(0)} %`,
      state: ({ percent }) => (percent >= NEARLY_FULL ? "bad" : null),
      bar: ({ percent }) => percent / 100,
    },
  ];
  const kinds = now.nodes.some(({ kind }) => kind === "queue");
  fill(document.getElementById("queues"), columns, fullest, ({ node, name }) => `${node} ${name}`, kinds ? "There are no queues yet." : "No queue node is watched.");
  setText(document.getElementById("queues-note"), others ? `and ${counted(others, "queue")} less full` : "");
}

export function drawChannels(now) {
  const { largest, others, others_bytes } = now.channels;
  const most = largest.length ? largest[0].bytes : 0;
  const columns = [
    { title: "Channel", primary: true, text: ({ name }) => name },
    { title: "Kind", text: ({ kind }) => kind },
    { title: "Nodes", number: true, text: ({ nodes }) => count(nodes) },
    { title: "Records", number: true, text: ({ records }) => short(records), hint: ({ records }) => count(records) },
    { title: "Stored", number: true, text: ({ bytes: size }) => bytes(size), bar: ({ bytes: size }) => (most ? size / most : 0) },
  ];
  fill(document.getElementById("channels"), columns, largest, ({ kind, name }) => `${kind} ${name}`, "There are no channels yet.");
  setText(document.getElementById("channels-note"), others ? `and ${counted(others, "channel")} more, with ${bytes(others_bytes)}` : "");
}

export function drawEvents(now, names) {
  const columns = [
    { title: "Time", text: ({ at_s }) => moment(at_s, now.at_s) },
    { title: "Level", text: ({ level }) => level.toLowerCase(), state: ({ level }) => (level === "WARNING" ? "warn" : "bad") },
    { title: "Node", text: ({ node }) => names[node] },
    { title: "What happened", text: ({ text }) => text },
  ];
  const seen = new Map();
  const key = ({ node, at_s, text }) => {
    const name = `${node} ${at_s} ${text}`;
    seen.set(name, (seen.get(name) ?? 0) + 1);
    return `${name} ${seen.get(name)}`;
  };
  fill(document.getElementById("events"), columns, now.events, key, "None. Nodes tell them to those who may see them: their root.log has them all.");
}
