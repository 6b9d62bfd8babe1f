// Light or dark: as the system says, until the button says otherwise.
const dark = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (document.documentElement.dataset.theme || (dark.matches ? "dark" : "light")) === "dark";
const themeListeners = [];

function startTheme() {
  try {
    const kept = localStorage.getItem("ppo-report-theme");
    if (kept) document.documentElement.dataset.theme = kept;
  } catch { /* a browser may keep nothing for files */ }
  const changed = () => {
    $("theme").textContent = isDark() ? "Light" : "Dark";
    $("theme").setAttribute("aria-label", isDark() ? "Use light colours" : "Use dark colours");
    themeListeners.forEach((redraw) => redraw());
  };
  $("theme").addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    try {
      localStorage.setItem("ppo-report-theme", document.documentElement.dataset.theme);
    } catch { /* see above */ }
    changed();
  });
  dark.addEventListener("change", changed);
  changed();
}
