// Samples: the table with its filters, and the chosen sample beside it.
let sampleTable = null;

function startSamples() {
  const numbers = sampleNumbers();
  const own = index.own.map((column, k) => ({ ...column, field: "o" + k }));
  const width = (title) => Math.max(84, Math.min(150, 32 + 8.4 * title.length));
  const longest = (values) => Math.max(0, ...new Set(Object.values(values).map((value) => String(value).length)));
  const wordWidth = ({ name, values }) => Math.max(width(name), Math.min(150, 22 + 7.6 * longest(values))); // a longer one goes on below
  options($("filter-round"), [["", "all"], ...index.rounds.map((r) => [r.name, r.name])]);
  options($("filter-finish"), [["", "all"], ...[...new Set(samples.map((row) => row.finish))].sort().map((f) => [f, f])]);
  options($("filter-column"), [...numbers, ...own.filter(({ numeric }) => numeric).map(({ field, name }) => [field, name])]);
  for (const { field, name, values } of own.filter(({ few }) => few)) {
    const choices = [...new Set(Object.values(values).map(String))].sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
    const select = el("select", { "data-own": field });
    options(select, [["", "all"], ...choices.map((value) => ["=" + value, clean(value)])]);
    $("filter-column").parentElement.before(el("label", { class: "own" }, name + " ", select));
  }
  sampleTable = makeTable($("table"), [
    wordColumn("Round", "round", 74), textColumn("Prompt", "prompt", 3), textColumn("Response", "response", 4),
    ...numbers.map(([field, title]) => numberColumn(title, field, field === "tokens" ? 0 : 3, field === "tokens" ? 74 : width(title))),
    wordColumn("Finish", "finish", 74),
    ...own.filter(({ few, numeric }) => few || numeric).map((one) => (one.numeric ? numberColumn(one.name, one.field, null, width(one.name)) : wordColumn(one.name, one.field, wordWidth(one)))),
  ], samples, { pick: showSample, follow: true });
  sampleTable.counted((n) => {
    const all = index.total > samples.length ? ` in this file (the run has ${count(index.total)})` : "";
    $("count").textContent = n === samples.length ? `${count(n)} samples${all}` : `${count(n)} of ${count(samples.length)}${all}`;
  });
  sampleTable.table.on("renderComplete", () => {
    if (!performance.getEntriesByName("table-drawn").length) performance.mark("table-drawn");
  });
  const filter = later(() => sampleTable.filter(sampleFilter()));
  $("filters").addEventListener("input", filter);
  $("filters").addEventListener("reset", filter);
  $("filters").addEventListener("submit", (event) => event.preventDefault());
}

function sampleFilter() {
  const words = $("search").value.trim().toLowerCase();
  const round = $("filter-round").value, finish = $("filter-finish").value, field = $("filter-column").value;
  const low = $("filter-low").value === "" ? -Infinity : Number($("filter-low").value);
  const high = $("filter-high").value === "" ? Infinity : Number($("filter-high").value);
  const chosen = [...document.querySelectorAll("#filters select[data-own]")].filter((s) => s.value).map((s) => [s.dataset.own, s.value.slice(1)]);
  const bounded = low !== -Infinity || high !== Infinity;
  return (row) =>
    (!round || row.round === round) && (!finish || row.finish === finish) &&
    chosen.every(([own, value]) => row[own] != null && String(row[own]) === value) &&
    (!bounded || (row[field] != null && row[field] >= low && row[field] <= high)) &&
    (!words || row.response.toLowerCase().includes(words) || row.prompt.toLowerCase().includes(words) || row.id.toLowerCase().includes(words));
}

// The numbers that samples have: [field, title].
function sampleNumbers() {
  const known = (field) => samples.some((row) => row[field] != null);
  const parts = index.samples.components.map((name, k) => ["c" + k, name]);
  return [["score", "Score"], ...parts, ["kl", "KL"], ["tokens", "Tokens"]].filter(([field]) => known(field));
}

async function showSample(row) {
  const panel = $("detail");
  const tokens = await block("tokens-" + row.round);
  const close = el("button", { type: "button", class: "quiet", "aria-label": "Close the sample" }, "Close");
  close.addEventListener("click", () => {
    panel.hidden = true;
    sampleTable.redraw();
  });
  const others = el("button", { type: "button", class: "quiet" }, "This prompt in all rounds");
  others.addEventListener("click", () => openPrompt(row.promptId));
  const names = index.samples.components;
  const facts = [["Round", row.round], ["Score", number(row.score)], ...names.map((name, k) => [name, number(row["c" + k])]),
    ["KL", number(row.kl)], ["Tokens", count(row.tokens)], ["Finish", row.finish]];
  const own = ownFacts(index.own, row.promptId);
  const widened = panel.hidden;
  panel.replaceChildren(
    el("div", { class: "panel-head" }, el("h2", {}, row.id), others, close),
    factList(facts),
    ...(own.length ? [el("h3", {}, "The prompt's own columns"), factList(own)] : []),
    el("h3", {}, "Conversation"), conversation(row.turns, index.texts),
    ...(row.full === row.prompt ? [] : [el("details", {}, el("summary", {}, "As the model saw it"), prose(row.full, "prose raw"))]),
    el("h3", {}, "Response"), tokenView(tokens, row.row),
  );
  panel.hidden = false;
  panel.scrollTop = 0;
  if (widened) sampleTable.redraw();
  sampleTable.reveal(row.i);
  setHash("samples", row.id);
}
