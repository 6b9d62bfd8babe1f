// Curves: each metric over the rounds, a line for each branch, starting where it left its parent.
const hiddenLines = new Set();

function startCurves() {
  const { curves, facts, notes } = index;
  $("facts").append(...facts.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
  if (notes.length) {
    $("notes").hidden = false;
    $("notes").querySelector("summary").textContent = notes.length === 1 ? "1 note on what is left out" : `${notes.length} notes on what is left out`;
    $("notes").querySelector("ul").append(...notes.map((note) => el("li", {}, note)));
  }
  const figures = [];
  if (curves.lines.length > 1) {
    $("lines").append(...curves.lines.map((line, k) => {
      const button = el("button", { type: "button", "aria-pressed": "true", class: "swatched line-" + (k % LINES) }, line.label);
      button.addEventListener("click", () => {
        hiddenLines.has(k) ? hiddenLines.delete(k) : hiddenLines.add(k);
        button.setAttribute("aria-pressed", String(!hiddenLines.has(k)));
        figures.forEach((figure) => figure.draw());
      });
      return button;
    }));
  }
  const add = (host, charts) => {
    for (const { metric, title, unit } of charts) {
      const figure = chart(title, () => curve(metric, unit));
      figures.push(figure);
      host.append(figure);
    }
  };
  const main = curves.charts.filter((c) => c.main), more = curves.charts.filter((c) => !c.main);
  add($("main-charts"), main);
  if (!main.length) $("main-charts").append(el("p", { class: "hint" }, "No metrics yet."));
  $("more-charts").hidden = !more.length;
  $("more-charts").addEventListener("toggle", () => {
    const host = $("more-charts").querySelector(".charts");
    if (!host.childElementCount) add(host, more);
  });
  figures.push(...startAgainst());
  startCompared();
}

function curve(metric, unit) {
  const { lines, depth, values } = index.curves;
  const found = values[metric], errors = values[metric + "_se"] || {};
  const deepest = Math.max(...Object.values(depth), 1);
  const x = Array.from({ length: deepest + 1 }, (_, d) => d);
  const names = lines.map((line) => {
    const at = new Array(x.length).fill(null);
    for (const name of line.start == null ? line.rounds : [line.start, ...line.rounds]) at[depth[name]] = name;
    return at;
  });
  const ys = names.map((at) => at.map((name) => (name == null ? null : found[name] ?? null)));
  const single = x.length < 3;
  return {
    data: [x, ...ys],
    sync: "rounds",
    x: { range: [0, Math.max(deepest, 1)] },
    xAxis: { incrs: WHOLE, label: "round" },
    yAxis: { label: unit },
    series: lines.map((line, k) => ({
      show: !hiddenLines.has(k), stroke: lineColour(k), width: 2, dash: lineDash(k), spanGaps: true, points: { show: single || line.rounds.length < 30, size: 5 },
    })),
    readout: (at) => {
      if (at == null) at = last(ys[0]);
      return lines.flatMap((line, k) => {
        const own = at != null && !hiddenLines.has(k) && names[k][at] != null && ys[k][at] != null && names[k][at] !== line.start;
        if (!own) return [];
        const error = errors[names[k][at]];
        const text = `${names[k][at]}: ${short(ys[k][at])}${error == null ? "" : ` ± ${short(error)}`}`;
        return [readoutPart(text, lines.length > 1 ? k : null)];
      });
    },
    summary: lines.map((line, k) => `${line.label}, from ${short(ys[k].find((y) => y != null))} to ${short(ys[k][last(ys[k])])}`).join("; "),
  };
}

function last(ys) {
  for (let i = ys.length - 1; i >= 0; i--) if (ys[i] != null) return i;
  return null;
}
