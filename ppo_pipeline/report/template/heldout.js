// Base and trained: greedy answers of two rounds to the same held-out prompts.
let heldoutTable = null;

async function startHeldout() {
  const { texts, rounds } = await block("heldout");
  const order = index.curves.lines.flatMap((line) => line.rounds).filter((name) => rounds[name]);
  if (order.length < 2) {
    $("heldout-table").append(el("p", { class: "hint" }, "Two rounds with eval.parquet are needed to compare; `dvc pull` fetches them."));
    return;
  }
  const choices = order.map((name) => [name, name === "r000" ? "r000, base" : name]);
  options($("left-round"), choices, order[0]);
  options($("right-round"), choices, order[lastOfMain(order)]);
  let largest = 1;
  const rows = () => {
    const found = pairs();
    largest = Math.max(...found.map((r) => Math.abs(r.change)), 1e-9);
    return found;
  };
  const pairs = () => {
    const left = rounds[$("left-round").value], right = rounds[$("right-round").value];
    const at = new Map(right.prompt_id.map((id, i) => [id, i]));
    return left.prompt_id.filter((id) => at.has(id)).map((id, i) => {
      const j = at.get(id), k = left.prompt_id.indexOf(id, i);
      return {
        i, id, prompt: texts[right.prompt[j]], left: left.response[k], leftScore: left.score[k], right: right.response[j],
        rightScore: right.score[j], change: right.score[j] - left.score[k],
      };
    });
  };
  const changeColumn = {
    ...numberColumn("Change", "change", 3, 90),
    formatter: (cell) => {
      const x = cell.getValue();
      const mark = el("span", { class: "figure pill" }, (x > 0 ? "+" : "") + number(x));
      mark.classList.add(x > 0 ? "plus" : x < 0 ? "minus" : "size");
      mark.style.setProperty("--strength", (Math.abs(x) / largest).toFixed(3));
      return mark;
    },
  };
  const columns = () => [
    textColumn("Prompt", "prompt"), textColumn(`Answer of ${$("left-round").value}`, "left"), numberColumn("Score", "leftScore"),
    textColumn(`Answer of ${$("right-round").value}`, "right"), numberColumn("Score", "rightScore"), changeColumn,
  ];
  heldoutTable = makeTable($("heldout-table"), columns(), rows(), {
    pick: (row) => openPrompt(row.id), rowHeight: 46, more: { initialSort: [{ column: "change", dir: "desc" }] },
  });
  const filter = () => {
    const words = $("heldout-search").value.trim().toLowerCase(), change = $("change").value;
    const kinds = {
      all: () => true, better: (r) => r.change > 0, worse: (r) => r.change < 0, same: (r) => r.change === 0, other: (r) => r.left !== r.right,
    };
    heldoutTable.filter((r) => kinds[change](r) && (!words || [r.prompt, r.left, r.right].some((t) => t.toLowerCase().includes(words))));
  };
  const tell = (n) => {
    const all = heldoutTable.table.getData();
    const average = (field) => number(all.reduce((sum, r) => sum + r[field], 0) / Math.max(1, all.length));
    $("heldout-count").textContent = `${count(n)} of ${count(all.length)} prompts; mean score ${average("leftScore")} → ${average("rightScore")}, better on ${all.filter((r) => r.change > 0).length}, worse on ${all.filter((r) => r.change < 0).length}`;
  };
  heldoutTable.counted(tell);
  const renew = () => {
    heldoutTable.table.setColumns(columns());
    heldoutTable.table.replaceData(rows()).then(() => tell(heldoutTable.table.getDataCount("active")));
  };
  $("left-round").addEventListener("change", renew);
  $("right-round").addEventListener("change", renew);
  $("change").addEventListener("change", filter);
  $("heldout-search").addEventListener("input", later(filter));
  $("change").form.addEventListener("submit", (event) => event.preventDefault());
}
