// Score over length, a point for each sample of the two chosen rounds: whether long answers are paid for being long.
function scatterOf() {
  const chosen = [...new Set([$("round-a").value, $("round-b").value])].filter(Boolean);
  const points = samples.filter((row) => chosen.includes(row.round) && row.score != null).sort((a, b) => a.tokens - b.tokens);
  const most = points.at(-1)?.tokens ?? 1;
  return {
    data: [points.map((row) => row.tokens), ...chosen.map((name) => points.map((row) => (row.round === name ? row.score : null)))],
    x: { range: [0, most * 1.03] },
    xAxis: { label: "response length (tokens)" },
    yAxis: { label: "score" },
    series: chosen.map((_, k) => ({ stroke: lineColour(k), paths: () => null, points: { show: true, size: 5, fill: lineColour(k) } })),
    readout: (at) => {
      if (at != null) return [readoutPart(`${points[at].id}: ${short(points[at].score)}, ${count(points[at].tokens)} tokens`, chosen.indexOf(points[at].round))];
      return chosen.map((name, k) => readoutPart(`${name}: correlation ${number(correlation(points.filter((row) => row.round === name)), 2)}`, k));
    },
    click: (at) => openSample(points[at].id),
  };
}

// Pearson's; nothing where one of both does not vary.
function correlation(rows) {
  const centred = (xs) => { const mean = xs.reduce((a, b) => a + b, 0) / xs.length; return xs.map((x) => x - mean); };
  const xs = centred(rows.map((row) => row.tokens)), ys = centred(rows.map((row) => row.score));
  const dot = (a, b) => a.reduce((sum, x, i) => sum + x * b[i], 0);
  const size = Math.sqrt(dot(xs, xs) * dot(ys, ys));
  return size > 1e-12 ? dot(xs, ys) / size : null;
}
