// A report that `--watch` writes anew: the page loads itself again once it is left alone, where it stood.
function startWatched() {
  if (!index.watched) return;
  $("watched").hidden = false;
  let touched = Date.now();
  for (const event of ["pointermove", "pointerdown", "keydown", "wheel"]) addEventListener(event, () => { touched = Date.now(); }, { passive: true });
  const filtered = () => [...document.querySelectorAll("input[type=search], input[type=number]")].some((input) => input.value);
  setInterval(() => {
    if (!document.hidden && !filtered() && Date.now() - touched >= 1000 * index.watched) location.reload();
  }, 500);
}
