// Requests per second and latency of each node over time, drawn by uPlot; the legend, whose buttons take nodes out of
// the charts; and the same as a table, for those who do not see them.

/* global uPlot */
import { choices, element, keep, setAttribute, setText } from "./elements.js";
import { decadeOfMilliseconds, milliseconds, rate, rateAxis, time } from "./format.js";
import { colour } from "./ring.js";
import { fill } from "./table.js";

const SPANS = [[60, "1 min"], [300, "5 min"], [900, "15 min"]];
const QUANTILES = [["median", "median", "Half of all requests are as fast"], ["p99", "99 %", "99 of 100 requests are as fast"]];
const DASHES = [[], [6, 3], [2, 3], [9, 3, 2, 3]]; // of the first eight nodes, the next eight, …
const LINEAR = {
  scale: { range: (_, low, high) => [0, high > 0 ? high * 1.12 : 1] },
  axis: { values: (_, splits) => rateAxis(splits), space: 36 },
};
const DECADES = {
  scale: { distr: 3, range: (_, low, high) => (high > 0 ? [decade(Math.floor, Math.max(low, 0.001)), decade(Math.ceil, high * 1.05)] : [0.01, 10]) },
  axis: { splits: (_, axis, low, high) => decadesBetween(low, high), filter: (_, splits) => splits, values: (_, splits) => splits.map(decadeOfMilliseconds) },
};
const height = (width) => (width > 480 ? 215 : 180); // pixels

export class Charts {
  #history;
  #names = [];
  #hidden = new Set();
  #span = 300;
  #quantile = "p99";
  #plots = [];

  constructor(history) {
    this.#history = history;
    choices(document.getElementById("spans"), SPANS, this.#span, (span) => {
      this.#span = span;
      this.draw();
    });
    choices(document.getElementById("quantiles"), QUANTILES, this.#quantile, (quantile) => {
      this.#quantile = quantile;
      this.draw();
    });
    const dark = matchMedia("(prefers-color-scheme: dark)");
    dark.addEventListener("change", () => this.#build());
    new ResizeObserver(() => this.#resize()).observe(document.getElementById("rates"));
    document.getElementById("charts-details").addEventListener("toggle", () => this.#fillTable());
  }

  /** To be called with the nodes' names before the first draw, and whenever they have changed. */
  name(names, nodes) {
    if (names.join("\n") !== this.#names.join("\n")) {
      this.#names = names;
      this.#hidden.clear();
      this.#build();
    }
    this.#fillLegend(nodes);
  }

  draw() {
    const { times, series } = this.#history;
    if (!this.#plots.length || !times.length) return;
    const last = times.at(-1);
    const from = Math.max(last - this.#span, Math.min(times[0], last - 60));
    const begin = Math.max(times.findIndex((each) => each >= from) - 1, 0);
    const cut = (values) => values.slice(begin);
    const [rates, latency] = this.#plots;
    for (const [plot, name] of [[rates, "rates"], [latency, this.#quantile]]) {
      plot.batch(() => {
        plot.setData([cut(times), ...series.map((each) => cut(each[name]))], false);
        plot.setScale("x", { min: from, max: last });
      });
    }
    this.#fillTable();
  }

  #build() {
    for (const plot of this.#plots) plot.destroy();
    this.#plots = this.#names.length
      ? [this.#plot("rates", rate, LINEAR), this.#plot("latency", milliseconds, DECADES)]
      : [];
    this.draw();
  }

  #plot(id, format, y) {
    const parent = document.getElementById(id);
    const style = getComputedStyle(document.documentElement);
    const [text, grid] = [style.getPropertyValue("--muted").trim(), style.getPropertyValue("--line").trim()];
    const axis = { stroke: text, grid: { stroke: grid, width: 1 }, ticks: { show: false }, font: "12px system-ui, sans-serif" };
    const series = this.#names.map((label, number) => ({
      label,
      stroke: style.getPropertyValue(`--${colour(number)}`).trim(),
      width: 1.75,
      dash: DASHES[Math.floor(number / 8) % DASHES.length],
      points: { show: false },
      show: !this.#hidden.has(number),
    }));
    const options = {
      width: parent.clientWidth,
      height: height(parent.clientWidth),
      legend: { show: false },
      cursor: { drag: { x: false, y: false }, points: { size: 6 }, sync: { key: "charts" }, y: false },
      scales: { x: { time: true }, y: y.scale },
      series: [{}, ...series],
      axes: [
        { ...axis, values: (_, splits) => splits.map((each) => time(each)), space: 90, size: 28 },
        { ...axis, ...y.axis, size: 58 },
      ],
      hooks: { setCursor: [(plot) => this.#tell(plot, format)] },
    };
    const plot = new uPlot(options, [[], ...series.map(() => [])], parent);
    plot.over.append(element("div", { class: "tip", hidden: "" }));
    return plot;
  }

  /** The values where the pointer is. */
  #tell(plot, format) {
    const tip = plot.over.querySelector(".tip");
    const { idx, left } = plot.cursor;
    const shown = tip && idx !== null && idx !== undefined && left >= 0 && plot.data[0][idx] !== undefined;
    if (tip) setAttribute(tip, "hidden", shown ? null : "");
    if (!shown) return;
    const lines = this.#names
      .map((name, number) => ({ name, number, value: plot.data[number + 1][idx] ?? null }))
      .filter(({ number, value }) => value !== null && !this.#hidden.has(number))
      .sort((one, other) => other.value - one.value);
    tip.replaceChildren(
      element("strong", {}, time(plot.data[0][idx])),
      ...lines.slice(0, 12).map(({ name, number, value }) =>
        element("span", {}, element("i", { class: `swatch ${colour(number)}` }), `${name}  `, element("b", {}, format(value))),
      ),
    );
    const right = left > plot.over.clientWidth / 2;
    tip.style.left = right ? "" : `${left + 12}px`;
    tip.style.right = right ? `${plot.over.clientWidth - left + 12}px` : "";
  }

  #resize() {
    for (const plot of this.#plots) {
      const width = plot.root.parentElement.clientWidth;
      if (width && width !== plot.width) plot.setSize({ width, height: height(width) });
    }
  }

  #fillLegend(nodes) {
    keep(
      document.getElementById("legend"),
      this.#names.map((name, number) => ({ name, number, up: nodes[number].up })),
      ({ name }) => name,
      ({ number }) => {
        const button = element("button", { type: "button" }, legendLine(number), element("span"));
        button.addEventListener("click", () => this.#toggle(number));
        return button;
      },
      (button, { name, number, up }) => {
        setText(button.lastChild, up ? name : `${name} (down)`);
        setAttribute(button, "aria-pressed", String(!this.#hidden.has(number)));
        setAttribute(button, "title", this.#hidden.has(number) ? "Draw it" : "Leave it out");
      },
    );
  }

  #toggle(number) {
    if (!this.#hidden.delete(number)) this.#hidden.add(number);
    for (const plot of this.#plots) plot.setSeries(number + 1, { show: !this.#hidden.has(number) });
    setAttribute(document.getElementById("legend").children[number], "aria-pressed", String(!this.#hidden.has(number)));
  }

  #fillTable() {
    if (!document.getElementById("charts-details").open || !this.#history.times.length) return;
    const from = this.#history.times.at(-1) - this.#span;
    const begin = this.#history.times.findIndex((each) => each >= from);
    const known = (number, name) => this.#history.series[number][name].slice(begin).filter((each) => each !== null);
    const mean = (values) => (values.length ? values.reduce((sum, each) => sum + each, 0) / values.length : null);
    const highest = (values) => (values.length ? values.reduce((one, other) => Math.max(one, other)) : null);
    const column = (title, format, name, choose) => ({
      title, number: true, text: ({ number }) => format(choose(known(number, name))),
    });
    const now = (name) => ({ number }) => this.#history.series[number][name].at(-1) ?? null;
    const columns = [
      { title: "Node", primary: true, swatch: ({ number }) => colour(number), text: ({ name }) => name },
      { title: "Requests/s now", number: true, text: (row) => rate(now("rates")(row)) },
      column("mean", rate, "rates", mean),
      column("highest", rate, "rates", highest),
      { title: "99 % within, now", number: true, text: (row) => milliseconds(now("p99")(row)) },
      column("at most", milliseconds, "p99", highest),
    ];
    const rows = this.#names.map((name, number) => ({ name, number }));
    fill(document.getElementById("charts-table"), columns, rows, ({ number }) => String(number), "");
  }
}

/** The power of ten beside a number: of 0.03 it is 0.01 below, and 0.1 above. */
function decade(round, value) {
  return 10 ** round(Math.log10(value));
}

function decadesBetween(low, high) {
  const first = Math.round(Math.log10(low));
  return Array.from({ length: Math.round(Math.log10(high)) - first + 1 }, (_, each) => 10 ** (first + each));
}

function legendLine(number) {
  const line = element("span", { class: `line ${colour(number)}`, "aria-hidden": "true" });
  line.dataset.dash = String(Math.floor(number / 8) % DASHES.length);
  return line;
}
