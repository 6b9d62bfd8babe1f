// Elements and numbers. Text reaches the page through el() and text nodes alone: nothing of a model is ever markup.
const $ = (id) => document.getElementById(id);

function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child != null));
  return element;
}

// A browser draws most control characters as nothing; here they are spelled out. Tabs and line feeds stay.
const CONTROL = /[\x00-\x08\x0b-\x1f\x7f-\x9f]/g;
const clean = (text) => text.replace(CONTROL, (c) => "\\x" + c.charCodeAt(0).toString(16).padStart(2, "0"));

// Text of a model or a data set: its direction is its own.
const prose = (text, name = "prose") => el("div", { class: name, dir: "auto" }, clean(text));

const MISSING = "–";
function number(x, digits = 3) {
  if (x == null) return MISSING;
  return (Object.is(x, -0) ? 0 : x).toFixed(digits).replace("-", "−");
}
// As many digits as a reader needs of a number of unknown size.
function short(x) {
  if (x == null) return MISSING;
  const size = Math.abs(x);
  if (size !== 0 && (size < 0.001 || size >= 1e6)) return x.toExponential(2).replaceAll("-", "−");
  return number(x, Number.isInteger(x) ? 0 : size >= 100 ? 1 : 3);
}
const count = (n) => n.toLocaleString("en-US");

function options(select, values, chosen) {
  select.replaceChildren(...values.map(([value, label]) => el("option", { value }, label)));
  if (chosen != null) select.value = chosen;
}

function later(action, milliseconds = 120) {
  let timer = 0;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(action, milliseconds);
  };
}
