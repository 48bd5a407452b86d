// Asks the server for what is new, once a second, and draws it. When no answer comes, twice in a row, it says so, keeps
// what it has, and asks again until one does; a page that comes back from sleep asks at once.

import { Charts } from "./charts.js";
import { setAttribute, setText } from "./elements.js";
import { counted, duration, time } from "./format.js";
import { History } from "./history.js";
import { drawRing } from "./ring.js";
import { drawChannels, drawEvents, drawNodes, drawQueues } from "./tables.js";
import { drawFindings, drawTiles, problemsOf } from "./whole.js";

const TIMEOUT_MS = 5000;
const RETRY_MS = 1000;
const SECOND_TRY_MS = 200; // the server closes connections from time to time, perhaps just when a request comes

const history = new History();
const charts = new Charts(history);
let wake = () => {};
let answered_ms = null;
let failures = 0; // since the last answer

async function ask() {
  const response = await fetch(`data.json?${history.query}`, { signal: AbortSignal.timeout(TIMEOUT_MS), cache: "no-store" });
  if (!response.ok) throw new Error(`status ${response.status}: ${(await response.text()).slice(0, 200)}`);
  return response.json();
}

function draw(answer) {
  const { now } = answer;
  history.take(answer);
  if (!now) return;
  const names = namesOf(now.nodes);
  const problems = problemsOf(now, names);
  drawState(now, problems);
  setAttribute(document.getElementById("load"), "hidden", now.nodes.length ? null : "");
  drawTiles(now);
  drawFindings(now, problems);
  drawRing(now);
  charts.name(names, now.nodes);
  charts.draw();
  drawNodes(now, names);
  drawQueues(now, names);
  drawChannels(now);
  drawEvents(now, names);
  setText(document.getElementById("footer"), `swarm dashboard on ${answer.title}`);
}

/** Where all nodes are on one host their ports are enough. */
function namesOf(nodes) {
  const hosts = new Set(nodes.map(({ address }) => address.slice(0, address.lastIndexOf(":"))));
  const short = hosts.size === 1 && nodes.length > 1;
  return nodes.map(({ kind, address }) => `${kind} ${short ? address.slice(address.lastIndexOf(":")) : address}`);
}

function drawState(now, problems) {
  const down = now.nodes.filter(({ up }) => !up).length;
  const bad = problems.filter(({ state }) => state === "bad").length;
  const pill = document.getElementById("state");
  const [state, text] = !now.nodes.length
    ? ["warn", "no nodes"]
    : down
      ? ["bad", `${counted(down, "node")} down`]
      : problems.length
        ? [bad ? "bad" : "warn", counted(problems.length, "finding")]
        : ["good", "all well"];
  setAttribute(pill, "data-state", state);
  setText(pill, text);
  setText(document.getElementById("subtitle"), summary(now.nodes));
  document.title = state === "good" ? "swarm" : `${text} – swarm`;
}

function summary(nodes) {
  const kinds = ["dht", "queue", "logfiles"]
    .map((kind) => [nodes.filter((node) => node.kind === kind).length, kind])
    .filter(([number]) => number)
    .map(([number, kind]) => `${number} ${kind}`);
  return kinds.length ? `${counted(nodes.length, "node")}: ${kinds.join(", ")}` : "no nodes are watched";
}

function connected(at_s) {
  document.body.classList.remove("lost");
  tellConnection("good", at_s ? "live" : "the nodes are being asked", at_s ? time(at_s) : "", null);
}

function lost(error) {
  const since = answered_ms === null ? "" : `${duration(Math.round((Date.now() - answered_ms) / 1000))} ago`;
  document.body.classList.add("lost");
  tellConnection("bad", answered_ms === null ? "no connection" : "connection lost", since, String(error.message ?? error));
}

/** There is an answer, and a fault in this page or in what it got: what is shown is old, at least in part. */
function notDrawn(error) {
  console.error(error);
  document.body.classList.add("lost");
  tellConnection("bad", `cannot be drawn: ${error.message ?? error}`, "", String(error));
}

/** when: what changes each second. It is not read aloud. */
function tellConnection(state, text, when, why) {
  const pill = document.getElementById("connection");
  setAttribute(pill, "data-state", state);
  setAttribute(pill, "title", why);
  setText(pill.firstElementChild, text);
  setText(pill.lastElementChild, when);
}

function pause(milliseconds) {
  return new Promise((resolve) => {
    wake = resolve;
    setTimeout(resolve, milliseconds);
  });
}

for (const event of ["online", "pageshow", "focus"]) addEventListener(event, () => wake());
document.addEventListener("visibilitychange", () => document.hidden || wake());

for (;;) {
  const begun_ms = performance.now();
  let answer = null;
  try {
    answer = await ask();
  } catch (error) {
    failures += 1;
    if (failures > 1) lost(error);
  }
  if (answer) {
    answered_ms = Date.now();
    failures = 0;
    try {
      draw(answer);
      connected(answer.now?.at_s);
    } catch (error) {
      notDrawn(error);
    }
  }
  const interval_ms = answer?.now ? answer.interval_s * 1000 : failures === 1 ? SECOND_TRY_MS : RETRY_MS;
  await pause(Math.max(interval_ms - (performance.now() - begun_ms), 100));
}
