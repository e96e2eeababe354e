"use strict";
(() => {
  const [method, task, model, shown] = ["method", "task", "model", "shown"].map((id) => document.getElementById(id));
  if (!method) return;  // the page of a row has no filters
  const filter = () => {
    const wanted = method.value.trim().toLowerCase();
    const rows = [...document.querySelectorAll("tr[data-method]")];
    for (const row of rows)
      row.hidden = !row.dataset.method.toLowerCase().includes(wanted) || (model.value !== "" && row.dataset.model !== model.value);
    for (const section of document.querySelectorAll("section.task"))
      section.hidden = (task.value !== "" && section.dataset.task !== task.value) || !section.querySelector("tr[data-method]:not([hidden])");
    const left = rows.filter((row) => !row.hidden && !row.closest("section").hidden).length;
    shown.textContent = `${left} of ${rows.length} rows`;
    const state = new URLSearchParams(Object.entries({ task: task.value, model: model.value, method: method.value }).filter(([, value]) => value));
    try { history.replaceState(null, "", state.size ? `#${state}` : location.pathname); } catch { /* a file: page keeps no state */ }
  };
  const state = new URLSearchParams(location.hash.slice(1));
  for (const field of [task, model, method]) {
    if (state.has(field.id)) field.value = state.get(field.id);
    field.addEventListener("input", filter);
  }
  filter();
})();
