// Best and worst: the samples of a round at both ends of a number, each with its conversation.
const MOST = 5;

function startBest() {
  if (!samples.length) {
    $("ends").append(el("p", { class: "hint" }, "No rollouts here yet."));
    return;
  }
  const names = [...new Set(samples.map((row) => row.round))];
  options($("best-round"), [["", "all"], ...names.map((name) => [name, name])], names[lastOfMain(names)]);
  options($("best-by"), sampleNumbers());
  const redraw = () => {
    const round = $("best-round").value, field = $("best-by").value;
    const rows = samples.filter((row) => (!round || row.round === round) && row[field] != null).sort((a, b) => b[field] - a[field]);
    const half = Math.min(MOST, Math.ceil(rows.length / 2));
    const total = index.rounds.filter((r) => !round || r.name === round).reduce((sum, r) => sum + r.total, 0);
    $("best-count").textContent = `of ${count(rows.length)} samples${rows.length < total ? ` in this file (the run has ${count(total)})` : ""}`;
    $("ends").replaceChildren(end("Highest", rows.slice(0, half), field), end("Lowest", rows.slice(half).slice(-half).reverse(), field));
  };
  $("best-round").addEventListener("change", redraw);
  $("best-by").addEventListener("change", redraw);
  redraw();
}

const end = (title, rows, field) => el("section", { class: "end" }, el("h2", {}, title), ...rows.map((row) => {
  const open = el("button", { type: "button", class: "link" }, row.id);
  open.addEventListener("click", () => openSample(row.id));
  const numbers = sampleNumbers().map(([key, name]) => `${name} ${number(row[key], key === "tokens" ? 0 : 3)}`);
  const figures = [...numbers, row.finish, ...ownFacts(index.own, row.promptId).map(([name, value]) => `${name}: ${value}`)];
  return el("article", { class: "card" }, el("p", { class: "figures" }, open, ` · ${figures.join(" · ")}`),
    conversation(row.turns, index.texts, turn("assistant", prose(row.response || " ", "prose chosen-response"), "Response")));
}));
