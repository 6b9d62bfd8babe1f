// Distributions: bands of quantiles over the rounds, and the histograms of two chosen ones.
function startDistributions() {
  const kinds = index.distributions;
  if (!kinds.length) {
    $("spreads").append(el("p", { class: "hint" }, "No rollouts here yet."));
    return;
  }
  const names = index.curves.lines.flatMap((line) => line.rounds).filter((name) => kinds.some((kind) => kind.rounds[name]));
  const choices = names.map((name) => [name, name]);
  options($("round-a"), choices, names[names.length > 1 ? lastOfMain(names) : 0]);
  options($("round-b"), [["", "none"], ...choices], names.length > 1 ? names[0] : "");
  const histograms = [];
  for (const kind of kinds) {
    const spread = chart(kind.title, () => spreadOf(kind, (name) => {
      $("round-a").value = name;
      refresh();
    }), 268);
    const histogram = chart("Share of the samples", () => histogramOf(kind), 190);
    const numbers = el("table", { class: "numbers" });
    histogram.table = () => numbers.replaceChildren(...tableOf(kind));
    histograms.push(histogram);
    $("spreads").append(el("div", { class: "spread" }, spread, el("div", {}, histogram, numbers)));
  }
  const scatter = chart("Score over length, a point for each sample in this file", scatterOf, 268);
  $("spreads").append(scatter);
  histograms.push(scatter);
  scatter.table = () => {};
  const refresh = () => histograms.forEach((histogram) => {
    histogram.draw();
    histogram.table();
  });
  $("round-a").addEventListener("change", refresh);
  $("round-b").addEventListener("change", refresh);
  refresh();
}

const lastOfMain = (names) => {
  const main = index.curves.lines[0].rounds.filter((name) => names.includes(name));
  return main.length ? names.indexOf(main[main.length - 1]) : 0;
};

function spreadOf(kind, choose) {
  // The lines of rounds stand one behind the other, with a gap between them.
  const names = index.curves.lines.flatMap((line, k) => {
    const own = line.rounds.filter((name) => kind.rounds[name]);
    return k && own.length ? [null, ...own] : own;
  });
  const row = (pick) => names.map((name) => (name == null ? null : pick(kind.rounds[name])));
  const [p5, p25, p50, p75, p95] = [0, 1, 2, 3, 4].map((q) => row((r) => r.quantiles[q]));
  const edge = { stroke: "transparent", width: 0, points: { show: false } };
  const dots = { show: names.length < 3 };
  return {
    data: [names.map((_, i) => i), p95, p75, p50, p25, p5, row((r) => r.mean)],
    x: { range: [-0.3, Math.max(names.length - 1, 1) + 0.3] },
    xAxis: roundAxis(names),
    yAxis: { label: kind.unit },
    series: [edge, edge, { stroke: ink("line-0"), width: 2, points: dots }, edge, edge, { stroke: ink("line-1"), width: 2, dash: [5, 4], points: dots }],
    bands: [
      { series: [1, 5], fill: ink("band-wide") },
      { series: [2, 4], fill: ink("band-narrow") },
    ],
    readout: (at) => {
      const name = names[at ?? -1] ?? $("round-a").value;
      const r = kind.rounds[name];
      return r ? [readoutPart(`${name}: median ${short(r.quantiles[2])}, mean ${short(r.mean)}`)] : [];
    },
    click: (at) => names[at] && choose(names[at]),
  };
}

function histogramOf(kind) {
  const a = kind.rounds[$("round-a").value], b = kind.rounds[$("round-b").value];
  const share = (r) => (r ? [...r.counts.map((n) => (100 * n) / r.count), null] : kind.edges.map(() => null));
  const step = (r) => (r ? [...r.counts.map((n) => (100 * n) / r.count), 0] : kind.edges.map(() => null));
  return {
    data: [kind.edges, share(a), step(b)],
    x: { range: [kind.edges[0], kind.edges[kind.edges.length - 1]] },
    xAxis: { label: kind.unit },
    y: { range: (_, low, high) => [0, Math.max(high || 0, 1) * 1.05] },
    yAxis: { values: (_, ticks) => ticks.map((t) => t + " %") },
    series: [
      { paths: uPlot.paths.bars({ align: 1, size: [1, Infinity] }), fill: ink("bar"), stroke: ink("line-0"), width: 1, points: { show: false } },
      { paths: uPlot.paths.stepped({ align: 1 }), stroke: ink("line-1"), width: 2, points: { show: false } },
    ],
    readout: (at) => {
      if (at == null || at >= kind.edges.length - 1) {
        return [readoutPart($("round-a").value, 0), ...(b ? [readoutPart($("round-b").value, 1)] : [])];
      }
      const span = `${short(kind.edges[at])} to ${short(kind.edges[at + 1])}: `;
      const of = (r) => (r ? `${r.counts[at]} (${number((100 * r.counts[at]) / r.count, 0)} %)` : "");
      return [readoutPart(span), readoutPart(of(a), 0), ...(b ? [readoutPart(of(b), 1)] : [])];
    },
  };
}

function tableOf(kind) {
  const head = ["round", "samples", "mean", "std", "5 %", "median", "95 %"].map((name) => el("th", { scope: "col" }, name));
  const chosen = [...new Set([$("round-a").value, $("round-b").value])].filter((name) => kind.rounds[name]);
  return [el("tr", {}, ...head), ...chosen.map((name) => {
    const r = kind.rounds[name];
    const cells = [count(r.count), ...[r.mean, r.std, r.quantiles[0], r.quantiles[2], r.quantiles[4]].map(short)];
    return el("tr", {}, el("th", { scope: "row" }, name), ...cells.map((cell) => el("td", {}, cell)));
  })];
}
