// One prompt: its answers side by side, a column for each round; held-out prompts have one in every round.
let promptTable = null, answersOf = new Map();

async function startAnswers() {
  const order = new Map(index.curves.lines.flatMap((line) => line.rounds).map((name, k) => [name, k]));
  const add = (id, prompt, answer, more) => {
    if (!answersOf.has(id)) answersOf.set(id, { id, prompt, answers: [], ...more });
    answersOf.get(id).answers.push(answer);
  };
  const heldout = await block("heldout");
  for (const [round, table] of Object.entries(heldout.rounds)) {
    table.prompt_id.forEach((id, i) => add(id, heldout.texts[table.prompt[i]], {
      round, response: table.response[i], score: table.score[i], tokens: table.tokens[i], finish: table.finish[i], greedy: true,
    }, { turns: table.turns[i], texts: heldout.texts, own: heldout.own }));
  }
  for (const row of samples) add(row.promptId, row.prompt, row, { turns: row.turns, texts: index.texts, own: index.own });
  const rows = [...answersOf.values()];
  for (const entry of rows) {
    entry.answers.sort((a, b) => order.get(a.round) - order.get(b.round));
    entry.rounds = new Set(entry.answers.map((a) => a.round)).size;
    const first = mean(entry, entry.answers[0].round), end = mean(entry, entry.answers.at(-1).round);
    entry.change = entry.rounds > 1 && first != null && end != null ? end - first : null;
  }
  rows.sort((a, b) => b.rounds - a.rounds || (a.id < b.id ? -1 : 1));
  promptTable = makeTable($("prompt-table"), [textColumn("Prompt", "prompt", 1), numberColumn("Rounds", "rounds", 0, 78), numberColumn("Change", "change", 2, 80)],
    rows, { pick: (entry) => showAnswers(entry), follow: true, key: "id" });
  promptTable.counted((n) => { $("prompt-count").textContent = `${count(n)} prompts`; });
  $("prompt-search").addEventListener("input", later(() => {
    const words = $("prompt-search").value.trim().toLowerCase();
    promptTable.filter((entry) => entry.prompt.toLowerCase().includes(words) || entry.id.toLowerCase().includes(words));
  }));
  $("prompt-search").form.addEventListener("submit", (event) => event.preventDefault());
  if (rows.length) showAnswers(rows[0]);
  else $("side-by-side").replaceChildren(el("p", { class: "hint" }, "No answers here yet."));
}

function mean(entry, round) {
  const scores = entry.answers.filter((a) => a.round === round && a.score != null).map((a) => a.score);
  return scores.length ? scores.reduce((sum, x) => sum + x, 0) / scores.length : null;
}

function showAnswers(entry) {
  const columns = [];
  let before = null;
  for (const answer of entry.answers) {
    if (columns.at(-1)?.dataset.round !== answer.round) {
      const name = answer.round === "r000" ? "r000, base" : answer.round;
      columns.push(el("section", { class: "round", "data-round": answer.round }, el("h3", {}, name)));
    }
    columns.at(-1).append(card(answer, entry.answers[0].greedy && before != null && before !== answer.response));
    before = answer.response;
  }
  $("side-by-side").replaceChildren(
    el("div", { class: "panel-head" }, el("h2", {}, entry.id)), factList(ownFacts(entry.own, entry.id)), conversation(entry.turns, entry.texts),
    el("p", { class: "hint" }, entry.answers[0].greedy ? "A held-out prompt: greedy answers of each round's policy; a blue edge marks one that changed." : "Sampled answers; a round's are of the policy that it started from."),
    el("div", { class: "rounds" }, ...columns),
  );
  promptTable?.reveal(entry.id);
  setHash("answers", entry.id);
}

function card(answer, changed) {
  const figures = [`score ${number(answer.score)}`, answer.kl == null ? null : `KL ${number(answer.kl, 2)}`, `${answer.tokens} tokens`, answer.finish];
  const box = el("article", { class: changed ? "card changed" : "card" }, prose(answer.response || " "), el("p", { class: "figures" }, figures.filter(Boolean).join(" · ")));
  if (!answer.greedy) {
    const more = el("button", { type: "button", class: "link" }, "open");
    more.addEventListener("click", () => openSample(answer.id));
    box.lastChild.append(" · ", more);
  }
  return box;
}
