// Tables whose rows stay the same elements while their cells change.
//
// A column is {title, number, text, state, bar, hint, primary}: functions of a row, of which only text is needed.
// number: figures, to the right. state: a name of a state, shown as a mark beside the text. bar: how full it is, from
// 0 to 1; limit: full is bad. primary: names the row.

import { element, keep, setAttribute, setText } from "./elements.js";

export function fill(table, columns, rows, key, nothing) {
  if (!table.tHead) begin(table, columns);
  const body = table.tBodies[0];
  setAttribute(table, "hidden", rows.length ? null : "");
  const note = table.nextElementSibling?.classList.contains("nothing") ? table.nextElementSibling : null;
  if (rows.length) note?.remove();
  else if (!note) table.after(element("p", { class: "nothing note" }, nothing));
  keep(body, rows, key, () => makeRow(columns), (line, row) => updateRow(line, columns, row));
}

// The roles are said aloud since rows and cells that CSS lays out anew lose those that they have by themselves.
function begin(table, columns) {
  const titles = columns.map((each) =>
    element("th", { scope: "col", role: "columnheader", ...(each.number ? { class: "number" } : {}) }, each.title),
  );
  table.setAttribute("role", "table");
  table.append(
    element("thead", { role: "rowgroup" }, element("tr", { role: "row" }, ...titles)),
    element("tbody", { role: "rowgroup" }),
  );
}

function makeRow(columns) {
  const line = element("tr", { role: "row" });
  for (const column of columns) {
    const cell = element(column.primary ? "th" : "td", { "data-title": column.title });
    cell.setAttribute("role", column.primary ? "rowheader" : "cell");
    if (column.primary) cell.scope = "row";
    if (column.number) cell.classList.add("number");
    if (column.swatch) cell.append(element("span", { class: "swatch", "aria-hidden": "true" }));
    cell.append(element("span", { class: "text" }));
    if (column.bar) {
      cell.classList.add("with-bar");
      cell.append(element("span", { class: "bar", "aria-hidden": "true" }, element("span")));
    }
    line.append(cell);
  }
  return line;
}

function updateRow(line, columns, row) {
  setAttribute(line, "class", row.class ?? null);
  columns.forEach((column, position) => {
    const cell = line.children[position];
    setText(cell.querySelector(".text"), column.text(row));
    if (column.state) setAttribute(cell.querySelector(".text"), "data-state", column.state(row));
    if (column.hint) setAttribute(cell, "title", column.hint(row));
    if (column.swatch) setAttribute(cell.querySelector(".swatch"), "class", `swatch ${column.swatch(row)}`);
    if (column.bar) updateBar(cell.querySelector(".bar"), column.bar(row), column.limit);
  });
}

function updateBar(bar, part, limit) {
  setAttribute(bar, "hidden", part === null ? "" : null);
  if (part === null) return;
  bar.firstChild.style.width = `${Math.min(Math.max(part, 0), 1) * 100}%`;
  if (limit) setAttribute(bar, "data-level", part >= 0.9 ? "full" : part >= 0.75 ? "nearly" : null);
}
