// Rewards over what they may have cost: the root of the KL to the base, and the length of responses. A point is the
// mean of a round's samples; the line leads from round to round.
const COSTS = {
  "against-kl": { metric: "objective/kl", of: (x) => Math.sqrt(Math.max(x, 0)), label: "√ KL to the base (nats)", zero: true },
  "against-length": { metric: "val/response_length", of: (x) => x, label: "response length (tokens)" },
};

function startAgainst() {
  const { rewards, values } = index.curves;
  return Object.entries(COSTS).flatMap(([id, cost]) => {
    const figures = values[cost.metric] ? rewards.map(({ metric, title }) => chart(title, () => against(metric, cost))) : [];
    $(id).hidden = !figures.length;
    $(id).querySelector(".charts").append(...figures);
    return figures;
  });
}

function against(metric, cost) {
  const { lines, values } = index.curves;
  const found = values[metric], spreads = values[metric.replace("reward/", "objective/") + "_std"] || {};
  const inOrder = lines
    .flatMap((line, k) => line.rounds.map((name) => ({ k, name, x: cost.of(values[cost.metric][name]), y: found[name] })))
    .filter(({ x, y }) => Number.isFinite(x) && y != null);
  const points = [...inOrder].sort((a, b) => a.x - b.x);
  const most = points.at(-1)?.x;
  return {
    data: [points.map(({ x }) => x), ...lines.map((_, k) => points.map((p) => (p.k === k ? p.y : null)))],
    x: { range: (_, low, high) => (cost.zero ? [0, most > 0 ? most * 1.05 : 1] : [low - (high - low || 1) * 0.05, high + (high - low || 1) * 0.05]) },
    xAxis: { label: cost.label },
    yAxis: { label: "reward" },
    series: lines.map((_, k) => ({
      show: !hiddenLines.has(k), stroke: lineColour(k), width: 1, dash: lineDash(k), points: { show: true, size: 6, fill: lineColour(k) },
      paths: (u) => wayOf(u, inOrder.filter((p) => p.k === k)),
    })),
    draw: (u) => inOrder.filter((p, i) => !hiddenLines.has(p.k) && (inOrder[i - 1]?.k !== p.k || inOrder[i + 1]?.k !== p.k)).forEach((p) => nameAt(u, p)),
    readout: (at) => {
      const p = at == null ? inOrder.filter(({ k }) => !hiddenLines.has(k) && k === inOrder[0].k).at(-1) : points[at];
      if (!p || hiddenLines.has(p.k)) return [];
      const spread = metric !== "objective/scores" && spreads[p.name] != null ? ` ± ${short(spreads[p.name])} between members` : "";
      return [readoutPart(`${p.name}: ${short(p.y)}${spread} at ${short(p.x)}`, lines.length > 1 ? p.k : null)];
    },
    summary: points.map((p) => `${p.name} ${short(p.y)} at ${short(p.x)}`).join("; "),
  };
}

// uPlot's own paths run from left to right; these go from round to round.
function wayOf(u, way) {
  const stroke = new Path2D();
  for (const { x, y } of way) stroke.lineTo(u.valToPos(x, "x", true), u.valToPos(y, "y", true));
  return { stroke, fill: null, clip: null, band: null, gaps: null, flags: 2 };
}

function nameAt(u, { name, x, y }) {
  u.ctx.save();
  u.ctx.fillStyle = ink("muted");
  u.ctx.font = `${11 * devicePixelRatio}px system-ui, sans-serif`;
  const left = u.valToPos(x, "x", true), inside = left + 40 * devicePixelRatio < u.bbox.left + u.bbox.width;
  u.ctx.textAlign = inside ? "left" : "right";
  u.ctx.fillText(name, left + (inside ? 7 : -7) * devicePixelRatio, u.valToPos(y, "y", true) - 5 * devicePixelRatio);
  u.ctx.restore();
}
