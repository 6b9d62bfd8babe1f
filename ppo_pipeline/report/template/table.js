// Tables by Tabulator, which draws only the rows in view. Cells and titles are elements, never HTML text.
function textColumn(title, field, width = 1) {
  return { ...column(title, field), minWidth: 130, widthGrow: width, sorter: "string", formatter: (cell) => prose(cell.getValue() ?? "", "clamped") };
}

function numberColumn(title, field, digits = 3, width = 72) {
  return {
    ...column(title, field), width, hozAlign: "right", headerHozAlign: "right", sorter: "number", sorterParams: { alignEmptyValues: "bottom" },
    formatter: (cell) => el("span", { class: "figure" }, digits == null ? short(cell.getValue()) : number(cell.getValue(), digits)),
  };
}

function wordColumn(title, field, width = 72) {
  return { ...column(title, field), width, sorter: "string", formatter: (cell) => el("span", { dir: "auto", class: "clamped" }, clean(String(cell.getValue() ?? ""))) };
}

const column = (title, field) => ({ title, field, titleFormatter: () => el("span", { title }, title), headerSortTristate: true, resizable: "header" });

// pick(row data) is called for a click, Enter, and for the arrow keys where `follow` is set.
function makeTable(host, columns, data, { pick, rowHeight = 44, follow = false, key = "i", more = {} }) {
  let ready = false;
  const waiting = [];
  const table = new Tabulator(host, {
    data, columns, index: key, height: "100%", layout: "fitColumns", rowHeight, selectableRows: 1, headerSortClickElement: "header",
    selectableRowsRangeMode: "click", placeholder: el("span", { class: "hint" }, "Nothing matches."), keybindings: false,
    ...more,
  });
  table.on("tableBuilt", () => {
    ready = true;
    waiting.forEach((action) => action());
  });
  table.on("rowClick", (_, row) => go(row, true));
  const go = (row, open) => {
    table.deselectRow();
    row.select();
    if (open) pick(row.getData());
  };
  host.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10 }[event.key];
    if (event.target.closest(".tabulator-header") || (step == null && event.key !== "Enter")) return;
    event.preventDefault();
    const rows = table.getRows("active");
    if (!rows.length) return;
    const chosen = table.getSelectedRows()[0];
    const at = chosen ? rows.findIndex((row) => row.getIndex() === chosen.getIndex()) : -1;
    if (step == null) return void (at >= 0 && pick(rows[at].getData()));
    const to = rows[Math.max(0, Math.min(rows.length - 1, at + step))];
    go(to, follow);
    table.scrollToRow(to, "nearest", false).catch(() => {});
  });
  const whenReady = (action) => (ready ? action() : waiting.push(action));
  return {
    table,
    filter: (keep) => whenReady(() => table.setFilter(keep)),
    redraw: () => whenReady(() => table.redraw()),
    counted: (report) => table.on("dataFiltered", (_, rows) => report(rows.length)),
    reveal: (value) => whenReady(() => {
      const row = table.getRow(value);
      if (!row) return;
      go(row, false);
      table.scrollToRow(row, "center", false).catch(() => {}); // a row that the filter hides cannot be scrolled to
    }),
  };
}
