// Several seeds: bands of each metric over the rounds, for each result of `ppo-pipeline seeds`.
function startSeeds() {
  for (const result of index.seeds) {
    const more = el("details", {}, el("summary", {}, "More metrics of these seeds"), el("div", { class: "charts" }));
    const add = (host, charts) => host.append(...charts.map(({ metric, title }) => chart(title, () => bandsOf(result, metric))));
    const main = el("div", { class: "charts" });
    $("seeds").append(
      el("h2", {}, `${result.seeds.length} seeds: ${result.name}`),
      el("p", { class: "hint" }, `Bands: least to greatest and the quartiles of seeds ${result.seeds.join(", ")}; line: median.`), main, more,
    );
    add(main, result.charts.filter((c) => c.main));
    more.addEventListener("toggle", () => {
      const host = more.querySelector(".charts");
      if (!host.childElementCount) add(host, result.charts.filter((c) => !c.main));
    });
  }
}

function bandsOf({ rounds, bands }, metric) {
  const { median, q1, q3, min, max } = bands[metric];
  const edge = { stroke: "transparent", width: 0, points: { show: false } };
  return {
    data: [rounds.map((_, i) => i), max, q3, median, q1, min],
    sync: "rounds",
    x: { range: [0, Math.max(rounds.length - 1, 1)] },
    xAxis: { incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500] },
    series: [edge, edge, { stroke: ink("line-0"), width: 2, points: { show: rounds.length < 30, size: 5 } }, edge, edge],
    bands: [
      { series: [1, 5], fill: ink("band-wide") },
      { series: [2, 4], fill: ink("band-narrow") },
    ],
    readout: (at) => {
      if (at == null) at = last(median);
      if (at == null || median[at] == null) return [];
      return [readoutPart(`${rounds[at]}: ${short(median[at])} (${short(min[at])} to ${short(max[at])})`)];
    },
    summary: `median from ${short(median.find((y) => y != null))} to ${short(median[last(median)])}`,
  };
}
