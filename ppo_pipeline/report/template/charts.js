// uPlot in the page's colours: redrawn when they change, as wide as its place.
const LINES = 7; // colours in page.css; further lines repeat them dashed
const WHOLE = [1, 2, 5, 10, 20, 50, 100, 200, 500]; // steps of an axis of rounds
const ink = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
const lineColour = (k) => ink("line-" + (k % LINES));
const lineDash = (k) => (k < LINES ? undefined : [6, 4]);

// make() returns {data, series, ...} of uPlot; it is called again for each theme, since a canvas knows no variables.
function chart(title, make, height = 190) {
  const readout = el("span", { class: "readout" });
  const place = el("div", { class: "canvas", role: "img" });
  const figure = el("figure", {}, el("figcaption", {}, el("span", { class: "name", title }, title), readout), place);
  let plot = null;
  const draw = () => {
    if (!place.clientWidth) return; // in a hidden view: drawn when that is shown
    plot?.destroy();
    const made = make();
    const labelled = { labelFont: "12px system-ui, sans-serif", labelSize: 17, labelGap: 0 };
    const axis = {
      ...labelled,
      stroke: ink("muted"), font: "12px system-ui, sans-serif", ticks: { stroke: ink("grid"), width: 1, size: 4 },
      grid: { stroke: ink("grid"), width: 1 },
    };
    plot = new uPlot(
      {
        width: place.clientWidth, height, legend: { show: false }, padding: [8, 12, 0, 0],
        cursor: { points: { size: 7 }, drag: { x: false, y: false }, sync: made.sync ? { key: made.sync } : undefined },
        scales: { x: { time: false, ...(made.x || {}) }, y: made.y || {} },
        axes: [
          { ...axis, size: 30, ...(made.xAxis || {}) },
          { ...axis, size: 52, values: (_, ticks) => alike(ticks), ...(made.yAxis || {}) },
        ],
        series: [{}, ...made.series],
        bands: made.bands,
        hooks: {
          setCursor: [(u) => readout.replaceChildren(...made.readout(u.cursor.idx ?? null))],
          draw: made.draw ? [made.draw] : [],
          ready: [(u) => made.click && u.over.addEventListener("click", () => u.cursor.idx != null && made.click(u.cursor.idx))],
        },
      },
      made.data,
      place,
    );
    readout.replaceChildren(...made.readout(null));
    place.setAttribute("aria-label", `${title}: ${made.summary || readout.textContent}`);
  };
  themeListeners.push(draw);
  new ResizeObserver(later(draw, 60)).observe(place);
  figure.draw = draw;
  return figure;
}

// Ticks with the same digits behind the point, as many as their distance needs.
function alike(ticks) {
  const step = ticks.length > 1 ? Math.abs(ticks[1] - ticks[0]) : 1;
  if (step < 1e-4 || step >= 1e6) return ticks.map((t) => (t === 0 ? "0" : short(t)));
  const digits = [0, 1, 2, 3, 4, 5].find((d) => Math.abs(step * 10 ** d - Math.round(step * 10 ** d)) < 1e-6) ?? 5;
  return ticks.map((t) => number(t, digits));
}

const readoutPart = (text, k) => el("span", k == null ? {} : { class: "swatched line-" + (k % LINES) }, text);
