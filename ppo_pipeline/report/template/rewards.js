// Rewards against KL: a point for each round, at the square root of its samples' KL to the base.
function startRewards() {
  const { rewards } = index.curves;
  const figures = rewards.map(({ metric, title }) => chart(title, () => againstKl(metric)));
  $("against-kl").hidden = !figures.length;
  $("against-kl").querySelector(".charts").append(...figures);
  return figures;
}

function againstKl(metric) {
  const { lines, values } = index.curves;
  const found = values[metric], spreads = values[metric.replace("reward/", "objective/") + "_std"] || {};
  const points = lines
    .flatMap((line, k) => line.rounds.map((name) => ({ k, name, x: Math.sqrt(Math.max(values["objective/kl"][name], 0)), y: found[name] })))
    .filter(({ x, y }) => Number.isFinite(x) && y != null)
    .sort((a, b) => a.x - b.x);
  return {
    data: [points.map(({ x }) => x), ...lines.map((_, k) => points.map((p) => (p.k === k ? p.y : null)))],
    sync: "kl",
    x: { range: (u, low, high) => [0, high > 0 ? high * 1.05 : 1] },
    series: lines.map((_, k) => ({
      show: !hiddenLines.has(k), stroke: lineColour(k), paths: () => null, points: { show: true, size: 6, fill: lineColour(k) },
    })),
    readout: (at) => {
      const p = points[at ?? points.length - 1];
      if (!p || hiddenLines.has(p.k)) return [];
      const spread = metric !== "objective/scores" && spreads[p.name] != null ? ` ± ${short(spreads[p.name])} between members` : "";
      return [readoutPart(`${p.name}: ${short(p.y)}${spread} at ${short(p.x)}`, lines.length > 1 ? p.k : null)];
    },
    summary: points.map((p) => `${p.name} ${short(p.y)} at ${short(p.x)}`).join("; "),
  };
}
