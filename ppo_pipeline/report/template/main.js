// The views, one at a time, each built when it is first shown; the address names the view and what is chosen in it.
const VIEWS = { curves: startCurves, times: startTimes, distributions: startDistributions, samples: startSamples, best: startBest, answers: startAnswers, heldout: startHeldout };
const started = new Map();

function setHash(view, chosen) {
  history.replaceState(null, "", "#" + view + (chosen ? "/" + encodeURIComponent(chosen) : ""));
}

async function show(view) {
  for (const name of Object.keys(VIEWS)) {
    const chosen = name === view;
    $(name).hidden = !chosen;
    $("tab-" + name).setAttribute("aria-selected", String(chosen));
    $("tab-" + name).tabIndex = chosen ? 0 : -1;
  }
  document.body.dataset.view = view;
  if (!started.has(view)) started.set(view, VIEWS[view]());
  await started.get(view);
}

async function openSample(id) {
  const row = samples.find((each) => each.id === id);
  await show("samples");
  if (row) await showSample(row);
}

async function openPrompt(id) {
  await show("answers");
  if (answersOf.has(id)) showAnswers(answersOf.get(id));
}

function startTabs() {
  const names = Object.keys(VIEWS);
  $("tabs").addEventListener("click", (event) => {
    const view = event.target.getAttribute("aria-controls");
    if (!view) return;
    setHash(view);
    show(view);
  });
  $("tabs").addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const to = names[(names.indexOf(document.body.dataset.view) + step + names.length) % names.length];
    setHash(to);
    show(to);
    $("tab-" + to).focus();
  });
}

async function fromAddress() {
  const [view, chosen] = location.hash.slice(1).split("/");
  let id = "";
  try {
    id = decodeURIComponent(chosen || "");
  } catch { /* not one of this page's addresses: only the view is taken */ }
  if (id && view === "samples") await openSample(id);
  else if (id && view === "answers") await openPrompt(id);
  else await show(VIEWS[view] ? view : "curves");
}

async function start() {
  startTheme();
  try {
    if (typeof DecompressionStream === "undefined") throw new Error("this browser is too old: it cannot decompress (Chrome 80, Firefox 113, Safari 16.4 can)");
    openIndex(await block("index"));
    startTabs();
    startWatched();
    await fromAddress();
    addEventListener("hashchange", fromAddress);
    $("message").hidden = true;
  } catch (error) {
    $("message").textContent = "The report cannot be shown: " + error.message;
    throw error;
  }
}
start();
