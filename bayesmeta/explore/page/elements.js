// Elements of the page, and numbers on it: nothing here knows what is shown.

const NS = "http://www.w3.org/2000/svg";
const TYPED = 7; // digits of a number in a field; elsewhere fewer are enough

// --- elements -----------------------------------------------------------------------------------------------------

function html(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== false && value !== null) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

function svg(tag, attributes = {}, text = "") {
  const element = document.createElementNS(NS, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text) element.textContent = text;
  return element;
}

function numberInput(label, value, onValue, attributes = {}) {
  const input = html("input", { type: "number", step: "any", "aria-label": label, ...attributes });
  input.value = show(value, TYPED);
  input.addEventListener("input", () => {
    const valid = input.value.trim() !== "" && Number.isFinite(input.valueAsNumber);
    input.setAttribute("aria-invalid", String(!valid));
    if (valid) onValue(input.valueAsNumber);
  });
  return input;
}

// --- numbers ------------------------------------------------------------------------------------------------------

function show(value, digits = 4) {
  return String(Number(value.toPrecision(Math.max(digits, Math.ceil(Math.log10(Math.abs(value) + 1))))));
}

function ticks(low, high, count = 6) {
  const raw = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((k) => k * power).find((k) => k >= raw);
  const first = Math.ceil(low / step), last = Math.floor(high / step);
  return Array.from({ length: Math.max(0, last - first + 1) }, (_, k) => Number(((first + k) * step).toPrecision(12)));
}

function scale(low, high, from, to) {
  const unit = (to - from) / (high - low || 1);
  const map = (value) => from + (value - low) * unit;
  map.back = (pixel) => low + (pixel - from) / unit;
  map.low = low;
  map.high = high;
  return map;
}

function snap(value, quantity) {
  if (quantity.kind === "whole") return Math.round(value);
  if (quantity.kind === "real") {
    const unit = 10 ** Math.floor(Math.log10((quantity.high - quantity.low) / 500));
    return Number((Math.round(value / unit) * unit).toPrecision(12));
  }
  return quantity.values.reduce((best, one) => (Math.abs(one - value) < Math.abs(best - value) ? one : best));
}

function stepOf(quantity, range) {
  if (quantity.kind === "real") return range / 50;
  const gaps = quantity.values.slice(1).map((value, k) => value - quantity.values[k]);
  return gaps.length ? Math.min(...gaps) : 1;
}
