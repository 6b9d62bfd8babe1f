// Experiments beside each other: a colour for each group, its bands over the rounds; buttons hide groups.
const hiddenGroups = new Set();

function startCompared() {
  const { charts, groups } = index.compared;
  $("compared").hidden = !groups.length;
  const figures = [];
  const buttons = groups.map((group, k) => {
    const label = `${group.label} (${group.members.join(", ")})`;
    const button = el("button", { type: "button", "aria-pressed": "true", class: "swatched line-" + (k % LINES) }, label);
    button.addEventListener("click", () => {
      hiddenGroups.has(k) ? hiddenGroups.delete(k) : hiddenGroups.add(k);
      button.setAttribute("aria-pressed", String(!hiddenGroups.has(k)));
      figures.forEach((figure) => figure.draw());
    });
    return button;
  });
  $("compared").querySelector(".legend").append(...buttons);
  const add = (host, found) => {
    const drawn = found.map(({ metric, title, unit }) => chart(title, () => bandsOf(groups, metric, unit)));
    figures.push(...drawn);
    host.append(...drawn);
  };
  const more = $("compared").querySelector("details");
  add($("compared").querySelector(".charts"), charts.filter((c) => c.main));
  more.addEventListener("toggle", () => {
    const host = more.querySelector(".charts");
    if (!host.childElementCount) add(host, charts.filter((c) => !c.main));
  });
}

// Of each group five series: greatest, upper quartile, median, lower quartile, least.
function bandsOf(groups, metric, unit) {
  const longest = Math.max(...groups.flatMap((group) => Object.values(group.bands).map((band) => band.median.length)), 2);
  const row = (group, name) => Array.from({ length: longest }, (_, i) => group.bands[metric]?.[name][i] ?? null);
  const edge = { stroke: "transparent", width: 0, points: { show: false } };
  const line = (k) => ({ stroke: lineColour(k), dash: lineDash(k), width: 2, spanGaps: true, points: { show: longest < 30, size: 5 }, show: !hiddenGroups.has(k) });
  const ends = groups.map((group) => row(group, "median"));
  return {
    data: [Array.from({ length: longest }, (_, i) => i), ...groups.flatMap((group) => ["max", "q3", "median", "q1", "min"].map((name) => row(group, name)))],
    sync: "rounds",
    x: { range: [0, longest - 1] },
    xAxis: { incrs: WHOLE, label: "round" },
    yAxis: { label: unit },
    series: groups.flatMap((_, k) => { const hidden = { ...edge, show: !hiddenGroups.has(k) }; return [hidden, hidden, line(k), hidden, hidden]; }),
    bands: groups.flatMap((_, k) => (hiddenGroups.has(k) ? [] : [
      { series: [5 * k + 1, 5 * k + 5], fill: lineColour(k) + "22" },
      { series: [5 * k + 2, 5 * k + 4], fill: lineColour(k) + "38" },
    ])),
    readout: (at) => groups.flatMap((group, k) => {
      const i = at ?? last(ends[k]);
      if (hiddenGroups.has(k) || i == null || ends[k][i] == null) return [];
      const { min, max } = group.bands[metric], spread = group.members.length > 1 ? ` (${short(min[i])} to ${short(max[i])})` : "";
      return [readoutPart(`round ${i}: ${short(ends[k][i])}${spread}`, k)];
    }),
    summary: groups.map((group, k) => `${group.label}, median from ${short(ends[k].find((y) => y != null))} to ${short(ends[k][last(ends[k])])}`).join("; "),
  };
}
