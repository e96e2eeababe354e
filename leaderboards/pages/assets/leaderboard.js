"use strict";
(() => {
  const method = document.getElementById("method");
  const task = document.getElementById("task");
  const shown = document.getElementById("shown");
  const filter = () => {
    const wanted = method.value.trim().toLowerCase();
    for (const section of document.querySelectorAll("section.task"))
      section.hidden = task.value !== "" && section.dataset.task !== task.value;
    for (const item of document.querySelectorAll("[data-method]"))
      // An SVG element has no `hidden` of its own.
      item.toggleAttribute("hidden", !item.dataset.method.toLowerCase().includes(wanted) || item.dataset.base === "1");
    const rows = [...document.querySelectorAll("table.main tbody tr[data-method]")];
    const left = rows.filter((row) => !row.hidden && !row.closest("section").hidden).length;
    shown.textContent = `${left} of ${rows.length} rows`;
  };
  method.addEventListener("input", filter);
  task.addEventListener("change", filter);

  // The forest plot against another baseline, or by another metric: html_forest.py draws the first one alike.
  const ticks = (low, high) => {
    const rough = Math.max(high - low, 1e-9) / 3;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough * 0.999);
    const first = Math.floor(low / step + 1e-9), last = Math.max(Math.ceil(high / step - 1e-9), first + 1);
    return Array.from({ length: last - first + 1 }, (_, k) => Number(((first + k) * step).toPrecision(10)));
  };
  const signed = (value) => (value < -0.0005 ? "−" : "+") + Math.abs(value).toFixed(3);
  for (const forest of document.querySelectorAll(".forest")) {
    const choose = forest.querySelector(".choose");
    const [metric, base] = choose.querySelectorAll("select");
    const pairs = [...forest.closest("section").querySelectorAll("tr[data-a]")].map((row) => row.dataset);
    const rows = [...forest.querySelectorAll("tbody tr")];
    const against = (name) => {
      const pair = pairs.find((p) => p.metric === metric.value && name !== base.value &&
        [p.a, p.b].includes(name) && [p.a, p.b].includes(base.value));
      if (!pair) return [null, null, null, null];
      const [value, low, high, p] = pair.ends.split(",").map((text) => text === "" ? null : Number(text));
      const minus = (end) => end === null ? null : -end;
      return pair.a === name ? [value, low, high, p] : [minus(value), minus(high), minus(low), p];
    };
    const part = (kind, left, width) => {
      const made = document.createElement("i");
      made.className = kind;
      made.style.left = `${left}%`;
      if (width !== undefined) made.style.width = `${width}%`;
      return made;
    };
    const draw = () => {
      const found = rows.map((row) => against(row.dataset.method));
      const ends = found.flatMap(([value, low, high]) => [value, low, high]).filter((end) => end !== null);
      const marks = ends.length ? ticks(Math.min(0, ...ends), Math.max(0, ...ends)) : ticks(-0.01, 0.01);
      const at = (value) => 100 * (value - marks[0]) / (marks.at(-1) - marks[0]);
      const label = metric.selectedOptions[0].textContent;
      const title = `${label}: method minus ${base.value} on ${forest.dataset.task}`;
      forest.querySelector("caption span").textContent = title;
      forest.querySelector(".scroll").setAttribute("aria-label", title);
      forest.querySelector(".axis-marks").replaceChildren(...marks.map((mark) => {
        const shownMark = document.createElement("span");
        shownMark.style.left = `${at(mark)}%`;
        shownMark.textContent = String(mark).replace("-", "−");
        return shownMark;
      }));
      rows.forEach((row, index) => {
        const [value, low, high, p] = found[index];
        row.dataset.base = row.dataset.method === base.value ? "1" : "";
        const number = row.cells[1], strip = row.cells[2].firstElementChild;
        number.textContent = value === null ? "–" : signed(value);
        const parts = marks.map((mark) => part(mark === 0 ? "zero" : "line", at(mark)));
        let mood = "open";
        if (low !== null && high !== null) {
          const ci = document.createElement("span");
          ci.className = "ci";
          ci.textContent = `[${signed(low)}, ${signed(high)}]`;
          number.append(" ", ci);
          parts.push(part("bar", at(low), at(high) - at(low)));
          if (high < 0 || low > 0) mood = (high < 0) === (metric.selectedOptions[0].dataset.lower === "1") ? "better" : "worse";
        }
        if (value !== null) {
          parts.push(part(p !== null && p < 0.05 ? "dot sure" : "dot", at(value)));
          const seeds = (row.dataset.seeds || "").split(";").map((text) => text.split(":")).find(([name]) => name === metric.value);
          if (seeds) parts.push(...seeds[1].split(",").map((offset) => part("seed", at(value + Number(offset)))));
        }
        strip.className = `strip ${mood}`;
        strip.replaceChildren(...parts);
      });
      filter();
    };
    choose.hidden = false;
    metric.addEventListener("change", draw);
    base.addEventListener("change", draw);
  }
  filter();
})();
