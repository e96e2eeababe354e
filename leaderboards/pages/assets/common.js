"use strict";
(() => {
  const root = document.documentElement;
  const theme = document.getElementById("theme");
  const remembered = (() => { try { return localStorage.getItem("conrad-bench-theme"); } catch { return null; } })();
  const isDark = () => root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  const showTheme = () => theme.setAttribute("aria-pressed", String(isDark()));
  if (remembered === "dark" || remembered === "light") root.dataset.theme = remembered;
  theme.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    try { localStorage.setItem("conrad-bench-theme", root.dataset.theme); } catch { /* a file: page may store nothing */ }
    showTheme();
  });
  showTheme();

  for (const button of document.querySelectorAll("th button")) {
    button.addEventListener("click", () => {
      const head = button.closest("th");
      const direction = head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
      for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", direction);
      const body = head.closest("table").tBodies[0];
      const key = (row) => {
        const text = row.cells[head.cellIndex].dataset.value ?? "";
        return head.classList.contains("text") ? text : text === "" ? null : Number(text);
      };
      const sign = direction === "ascending" ? 1 : -1;
      const rows = [...body.rows].map((row) => [key(row), row]);
      // Cells without a number stay last, whatever the direction.
      rows.sort(([a], [b]) => a === null || b === null ? (a === null) - (b === null) : sign * (typeof a === "string" ? a.localeCompare(b) : a - b));
      body.append(...rows.map(([, row]) => row));
    });
  }
})();
