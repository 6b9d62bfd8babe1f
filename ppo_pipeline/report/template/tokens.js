// A response as its tokens: coloured by one quantity, each with its numbers on hover, focus or click.
const UNIT = 1e4; // numbers are stored as whole ten-thousandths
let colourBy = "advantage";

function tokenView(tokens, row) {
  const names = Object.keys(QUANTITIES).filter((name) => tokens.numbers[name]);
  if (!names.includes(colourBy)) colourBy = names[0];
  const pieces = tokens.pieces[row], counts = tokens.counts[row], special = new Set(tokens.special[row]);
  let start = 0;
  const spans = pieces.map((text, k) => {
    const size = counts ? counts[k] : 1, from = start;
    start += size;
    const numbers = Object.fromEntries(names.map((n) => [n, tokens.numbers[n][row].slice(from, from + size).map((x) => x / UNIT)]));
    const span = el("span", { class: special.has(k) ? "token special" : "token", role: "option", id: "token-" + k, "aria-selected": "false" });
    span.append(clean(text).replaceAll("\n", "↵\n"));
    return { span, text, from, size, numbers };
  });
  const box = el("div", { class: "tokens", dir: "auto", role: "listbox", tabindex: "0", "aria-label": "Tokens of the response" }, ...spans.map((s) => s.span));
  const scale = el("div"), chosen = el("div", { class: "chosen", "aria-live": "polite" });
  const colour = () => {
    for (const s of spans) {
      const xs = s.numbers[colourBy];
      shade(s.span, colourBy, xs.reduce((sum, x) => sum + x, 0) / xs.length);
      s.span.setAttribute("aria-label", `${tokenName(s)}, ${QUANTITIES[colourBy].label} ${figures(xs)}`);
    }
    scale.replaceChildren(legend(colourBy));
  };
  let current = -1;
  const choose = (k) => {
    spans[current]?.span.setAttribute("aria-selected", "false");
    current = k;
    const s = spans[k];
    s.span.setAttribute("aria-selected", "true");
    box.setAttribute("aria-activedescendant", s.span.id);
    s.span.scrollIntoView({ block: "nearest" });
    chosen.replaceChildren(numbersTable(s, pieces.length, names));
  };
  box.addEventListener("click", (event) => withToken(event, spans, choose));
  box.addEventListener("pointermove", (event) => {
    if (!withToken(event, spans, (k) => showTip(event, spans[k]))) $("tip").hidden = true;
  });
  box.addEventListener("pointerleave", () => { $("tip").hidden = true; });
  box.addEventListener("keydown", (event) => {
    const forward = getComputedStyle(box).direction === "rtl" ? "ArrowLeft" : "ArrowRight";
    const back = forward === "ArrowLeft" ? "ArrowRight" : "ArrowLeft";
    const to = { [forward]: current + 1, [back]: current - 1, Home: 0, End: spans.length - 1 }[event.key];
    if (to == null || !spans.length) return;
    event.preventDefault();
    choose(Math.max(0, Math.min(spans.length - 1, to)));
  });
  colour();
  chosen.append(el("p", { class: "hint" }, "Choose a token for all its numbers; the arrow keys go from one to the next."));
  return el("div", {}, picker(names, colour), scale, box, chosen);
}

function picker(names, changed) {
  const group = el("div", { class: "choices", role: "radiogroup", "aria-label": "Colour tokens by" });
  for (const name of names) {
    const input = el("input", { type: "radio", name: "colour", value: name });
    input.checked = name === colourBy;
    input.addEventListener("change", () => {
      colourBy = name;
      changed();
    });
    group.append(el("label", {}, input, el("span", {}, QUANTITIES[name].label)));
  }
  return group;
}

const figures = (xs) => xs.map((x) => number(x, 4)).join(", ");
const tokenName = (s) => (s.size > 1 ? `tokens ${s.from + 1} to ${s.from + s.size}` : `token ${s.from + 1}`);

function withToken(event, spans, action) {
  const span = event.target.closest?.(".token");
  if (span) action(spans.findIndex((s) => s.span === span));
  return Boolean(span);
}

function showTip(event, s) {
  const tip = $("tip");
  tip.replaceChildren(el("b", {}, QUANTITIES[colourBy].label + " " + figures(s.numbers[colourBy])), el("span", {}, tokenName(s)));
  tip.hidden = false;
  const left = Math.min(event.clientX + 12, innerWidth - tip.offsetWidth - 8);
  tip.style.left = Math.max(8, left) + "px";
  tip.style.top = Math.max(8, event.clientY - tip.offsetHeight - 12) + "px";
}

function numbersTable(s, total, names) {
  const title = el("p", {}, `${tokenName(s)[0].toUpperCase()}${tokenName(s).slice(1)}: `, el("code", { dir: "auto" }, clean(s.text).replaceAll("\n", "↵").replaceAll(" ", "␣")));
  const cells = names.map((name) => el("div", {}, el("dt", {}, QUANTITIES[name].label), el("dd", {}, figures(s.numbers[name]))));
  return el("div", {}, title, el("dl", { class: "facts" }, ...cells));
}
