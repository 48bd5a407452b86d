// Elements of the page. All that nodes say goes into it as text: nothing here or elsewhere takes markup.

const SVG = "http://www.w3.org/2000/svg";

export function element(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}

export function svg(name, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, name), attributes, children);
}

function filled(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

export function setText(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

export function setAttribute(target, name, value) {
  if (value === null) target.removeAttribute(name);
  else if (target.getAttribute(name) !== value) target.setAttribute(name, value);
}

/**
 * Brings a parent's children to those with these keys, in this order, and keeps those that are there already: whoever
 * has selected a text in one of them, or has the focus there, keeps that too.
 */
export function keep(parent, items, key, make, update) {
  const before = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  items.forEach((item, position) => {
    const name = key(item);
    let child = before.get(name);
    before.delete(name);
    if (!child) {
      child = make(item);
      child.dataset.key = name;
    }
    update(child, item);
    if (parent.children[position] !== child) parent.insertBefore(child, parent.children[position] ?? null);
  });
  for (const gone of before.values()) gone.remove();
}

/** A row of buttons of which one is pressed. */
export function choices(parent, options, chosen, choose) {
  parent.replaceChildren(
    ...options.map(([value, label, title]) => {
      const button = element("button", { type: "button", "aria-pressed": String(value === chosen) }, label);
      if (title) button.title = title;
      button.addEventListener("click", () => {
        for (const each of parent.children) each.setAttribute("aria-pressed", String(each === button));
        choose(value);
      });
      return button;
    }),
  );
}
