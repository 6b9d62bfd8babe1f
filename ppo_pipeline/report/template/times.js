// Time and tokens: how long each stage took, round by round and in all, from the records in logs/.
function startTimes() {
  const host = $("time-parts"), records = index.times;
  if (!records.length) {
    host.append(el("p", { class: "hint" }, "No records here: logs/ is written as stages end, and is not in git."));
    return;
  }
  const stages = [...new Set(records.map((r) => r.stage))], rounds = [...new Set(records.map((r) => r.round))].filter((name) => name != null);
  const ofStage = (stage) => records.filter((r) => r.stage === stage);
  const inRounds = stages.filter((stage) => ofStage(stage).some((r) => r.round != null));
  const legend = el("div", { class: "legend" }, ...inRounds.map((stage, k) => el("span", { class: "swatched line-" + (k % LINES) }, stage)));
  const kinds = [
    ["Seconds of each stage", (r) => r.seconds, stacked, "seconds"], ["Tokens through each stage", (r) => r.tokens, stacked, "tokens"],
    ["Speed", (r) => r.tokens_per_second, lineEach, "tokens a second"], ["Peak memory", peakOf, lineEach, "GB"],
  ];
  const at = (of) => (stage, round) => records.filter((r) => r.stage === stage && r.round === round).map(of)[0] ?? null;
  const known = kinds.filter(([, of]) => records.some((r) => r.round != null && of(r) != null));
  const charts = el("div", { class: "charts wide" }, ...known.map(([title, of, draw, unit]) => chart(title, () => draw(inRounds, rounds, at(of), unit), 230)));
  host.append(el("table", { class: "numbers" }, ...timeTable(stages, ofStage)), legend, charts,
    el("p", { class: "hint" }, "Seconds of the run that ended a stage: where one was killed and went on, what was before is not counted. Memory: the GPU's where there is one, else the process's."));
}

const peakOf = (r) => r.peak_gpu_memory_gb ?? r.peak_memory_gb;

function timeTable(stages, ofStage) {
  const sum = (rows, field) => rows.reduce((total, r) => total + (r[field] ?? 0), 0);
  const all = stages.reduce((total, stage) => total + sum(ofStage(stage), "seconds"), 0) || 1;
  const line = (name, rows, alike = true) => {
    const seconds = sum(rows, "seconds"), counted = rows.filter((r) => r.tokens != null), speeds = rows.map((r) => r.tokens_per_second).filter((x) => x);
    const peaks = rows.map(peakOf).filter((x) => x != null);
    const middle = speeds.sort((a, b) => a - b)[Math.floor(speeds.length / 2)];
    const cells = [count(rows.length), duration(seconds), `${number((100 * seconds) / all, 1)} %`, duration(seconds / rows.length),
      counted.length ? count(sum(counted, "tokens")) : MISSING, middle == null || !alike ? MISSING : short(middle),
      peaks.length ? short(Math.max(...peaks)) : MISSING];
    return el("tr", {}, el("th", { scope: "row" }, name), ...cells.map((cell) => el("td", {}, cell)));
  };
  const head = ["stage", "runs", "time", "share", "a run", "tokens", "tokens/s, median", "peak memory (GB)"].map((name) => el("th", { scope: "col" }, name));
  return [el("tr", {}, ...head), ...stages.map((stage) => line(stage, ofStage(stage))), line("all", stages.flatMap(ofStage), false)];
}

function duration(seconds) {
  if (seconds < 60) return `${number(seconds, seconds < 10 ? 2 : 0)} s`;
  return seconds < 3600 ? `${number(seconds / 60, 1)} min` : `${number(seconds / 3600, 2)} h`;
}

const roundAxis = (rounds) => ({ incrs: WHOLE, space: 60, values: (_, ticks) => ticks.map((t) => rounds[t] ?? "") });

// Bars on top of each other: drawn from the highest sum down, each covering what is below.
function stacked(stages, rounds, of, unit) {
  const sums = stages.map(() => rounds.map(() => 0));
  rounds.forEach((round, i) => stages.reduce((total, stage, k) => (sums[k][i] = total + (of(stage, round) ?? 0)), 0));
  const highest = Math.max(...sums.at(-1), 1e-9);
  return {
    data: [rounds.map((_, i) => i), ...[...sums].reverse()],
    x: { range: [-0.6, Math.max(rounds.length - 1, 0) + 0.6] },
    y: { range: [0, highest * 1.05] },
    xAxis: roundAxis(rounds),
    yAxis: { label: unit },
    series: stages.map((_, k) => stages.length - 1 - k).map((k) => ({ paths: uPlot.paths.bars({ size: [0.7, 60] }), fill: lineColour(k), stroke: lineColour(k), width: 0, points: { show: false } })),
    readout: (at) => {
      const i = at ?? rounds.length - 1, most = stages.map((stage, k) => [of(stage, rounds[i]) ?? 0, k]).filter(([x]) => x).sort((a, b) => b[0] - a[0]).slice(0, 3);
      return [readoutPart(`${rounds[i]}: ${short(sums.at(-1)[i])}`), ...most.map(([x, k]) => readoutPart(`${stages[k]} ${short(x)}`, k))];
    },
  };
}

function lineEach(stages, rounds, of, unit) {
  const shown = stages.map((stage, k) => [k, rounds.map((round) => of(stage, round) || null)]).filter(([, ys]) => ys.some((y) => y != null));
  return {
    data: [rounds.map((_, i) => i), ...shown.map(([, ys]) => ys)],
    x: { range: [-0.3, Math.max(rounds.length - 1, 1) + 0.3] },
    y: { range: (_, low, high) => [0, Math.max(high || 0, 1e-9) * 1.05] },
    xAxis: roundAxis(rounds),
    yAxis: { label: unit },
    series: shown.map(([k]) => ({ stroke: lineColour(k), width: 2, points: { show: rounds.length < 30, size: 5 } })),
    readout: (at) => shown.map(([k, ys]) => readoutPart(`${stages[k]} ${short(ys[at ?? last(ys)])}`, k)),
  };
}
