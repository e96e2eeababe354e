// The review by keyboard. Each entry goes to the server at once, and is shown as saved when the server has said so.
// Without scripts the same forms are sent as forms. The next report is fetched while this one is read, with its pictures,
// and takes its place; the server is told when it is shown.

import { begin as beginFilms } from "./film.js";

const wait = (ms) => new Promise((done) => setTimeout(done, ms));
let sentences = [];
let current = -1;
let waiting = 0;
let queue = Promise.resolve();
let ahead = null;

/** The address of the report that is shown. */
function here() {
  return document.getElementById("opened").getAttribute("action");
}

function say(text, wrong = false) {
  const saved = document.getElementById("saved");
  saved.textContent = text;
  saved.classList.toggle("wrong", wrong);
}

/** Send the fields until the server takes or refuses them; entries go one after the other, in their order. */
async function send(address, fields) {
  for (;;) {
    let answer;
    try {
      answer = await fetch(address, {
        method: "POST",
        headers: { "content-type": "application/x-www-form-urlencoded", accept: "application/json" },
        body: fields.toString(),
      });
    } catch {
      say("Not saved: the server does not answer. Trying again …", true);
      await wait(1500);
      continue;
    }
    if (answer.status === 429) { await wait(1000); continue; }
    if (answer.status === 403) { say("Not saved: the session has ended. Open the address that the command printed.", true); return null; }
    if (answer.status === 503) { say("Not saved: the server cannot write its file (is the disk full?). Trying again …", true); await wait(3000); continue; }
    if (!answer.ok) { say(`Not saved: the server refused it (${answer.status}). Load the page again to see what is kept.`, true); return null; }
    return answer.json();
  }
}

/** Send a form's entry; the form says of which report it is, this or one that was left. */
function enter(form, extra = {}) {
  const fields = new URLSearchParams(new FormData(form));
  for (const [name, value] of Object.entries(extra)) fields.set(name, value);
  waiting += 1;
  say("Saving …");
  queue = queue.then(async () => {
    const state = await send(form.getAttribute("action"), fields);
    waiting -= 1;
    if (state) {
      if (form.isConnected) show(state);
      if (!waiting) say(`Saved at ${new Date().toLocaleTimeString("en-GB")}.`);
    }
  });
  return queue;
}

/** Show what the server says is set. */
function show(state) {
  for (const item of sentences) {
    const number = item.dataset.sentence;
    const decision = state.decisions[number];
    press(item, "rating", state.ratings[number]);
    press(item, "action", decision?.action);
    const edited = decision?.action === "edit";
    item.classList.toggle("edited", edited);
    item.classList.toggle("rejected", decision?.action === "reject");
    item.querySelector(".corrected").hidden = !edited;
    item.querySelector(".new").textContent = edited ? decision.text : "";
  }
  press(document.getElementById("whole"), "judgement", state.judgement);
  const comment = document.getElementById("comment");
  if (document.activeElement !== comment) comment.value = state.comment ?? "";
  document.getElementById("undo").disabled = !state.undoable;
  document.getElementById("bar").value = state.complete;
  document.querySelector("#count strong").textContent = state.complete.toLocaleString("en-US");
  document.getElementById("open").href = state.open === null ? "/review/list" : `/review/${state.open}`;
}

function press(place, name, value) {
  for (const button of place.querySelectorAll(`button[name="${name}"]`)) {
    button.setAttribute("aria-pressed", String(button.value === String(value)));
  }
}

function go(index) {
  if (!sentences.length) return;
  sentences[current]?.classList.remove("now");
  document.querySelector("mark.now")?.classList.remove("now");
  current = Math.min(sentences.length - 1, Math.max(0, index));
  const item = sentences[current];
  item.classList.add("now");
  document.getElementById(`t${item.dataset.sentence}`)?.classList.add("now");
  item.focus({ preventScroll: true });
  item.scrollIntoView({ block: "nearest" });
}

async function leave(id) {
  const link = document.getElementById(id);
  if (!link) return;
  document.activeElement?.blur(); // what was written and not yet sent is sent
  await queue;
  if (waiting || !link.isConnected) return;
  if (ahead?.href !== link.href) { location.assign(link.href); return; }
  document.querySelector("main").replaceWith(ahead.main);
  document.title = ahead.title;
  history.pushState(null, "", link.href);
  scrollTo(0, 0);
  begin();
  queue = opened();
}

/** Tell the server that a report that was fetched ahead is shown, and show what has been entered since it was fetched. */
async function opened() {
  const form = document.getElementById("opened");
  const state = await send(form.getAttribute("action"), new URLSearchParams(new FormData(form)));
  if (state && form.isConnected) { show(state); fetchAhead(); }
}

/** Fetch the next report behind the pictures of this one; without it the next is a page like any other. */
async function fetchAhead() {
  const link = document.getElementById("next");
  if (!link) return;
  await Promise.allSettled([...document.querySelectorAll(".film img")].map((image) => image.decode()));
  let page;
  try {
    const answer = await fetch(link.href, { headers: { "x-ahead": "1" }, redirect: "error" });
    if (answer.status !== 200) return;
    page = new DOMParser().parseFromString(await answer.text(), "text/html");
  } catch { return; }
  const main = document.importNode(page.querySelector("main"), true); // its pictures begin to load
  await Promise.allSettled([...main.querySelectorAll(".film img")].map((image) => image.decode()));
  if (link.isConnected) ahead = { href: link.href, title: page.title, main };
}

document.addEventListener("click", (event) => {
  const link = event.target.closest?.("#next");
  if (!link || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
  event.preventDefault();
  leave("next");
});
addEventListener("popstate", () => { if (location.pathname !== here()) location.reload(); });

document.addEventListener("submit", (event) => {
  const form = event.target;
  if (form.getAttribute("action") !== here()) return;
  event.preventDefault();
  const button = event.submitter;
  const item = form.closest(".sentence");
  if (item) go(sentences.indexOf(item));
  form.dataset.sent = form.querySelector("textarea")?.value ?? "";
  enter(form, button?.name ? { [button.name]: button.value } : {});
  if (form.closest(".edit")) { form.closest(".edit").open = false; item.focus(); }
});

// Texts are sent when they are left, and two seconds after the last letter.
function beginTexts() {
  for (const area of document.querySelectorAll("textarea")) {
    const form = area.closest("form");
    form.dataset.sent = area.value;
    let timer;
    const keep = () => {
      clearTimeout(timer);
      if (area.value === form.dataset.sent || (area.name === "text" && !area.value.trim())) return;
      form.dataset.sent = area.value;
      enter(form);
    };
    area.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(keep, 2000); say("Not saved yet …"); });
    area.addEventListener("change", keep);
    area.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); form.requestSubmit(); }
      if (event.key === "Escape") { const item = area.closest(".sentence"); if (item) { area.closest(".edit").open = false; item.focus(); } else area.blur(); }
    });
  }
}

function act(name, value) {
  const item = sentences[current < 0 ? 0 : current];
  if (!item) return;
  go(sentences.indexOf(item));
  item.querySelector(`button[name="${name}"][value="${value}"]`).click();
}

const keys = {
  j: () => go(current + 1),
  k: () => go(current - 1),
  a: () => act("action", "accept"),
  r: () => act("action", "reject"),
  e: () => {
    go(current);
    const edit = sentences[current]?.querySelector(".edit");
    if (edit) { edit.open = true; edit.querySelector("textarea").focus(); }
  },
  o: () => document.querySelector('#whole button[name="judgement"]').focus(),
  c: () => document.getElementById("comment").focus(),
  n: () => leave("next"),
  p: () => leave("previous"),
  g: () => leave("open"),
  u: () => document.getElementById("undo").click(),
  "?": () => { const help = document.getElementById("help"); help.open = !help.open; if (help.open) help.scrollIntoView({ block: "nearest" }); },
};
for (const rating of "12345") keys[rating] = () => act("rating", rating);

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("textarea, input")) return;
  if (keys[event.key]) { event.preventDefault(); keys[event.key](); }
});
addEventListener("beforeunload", (event) => { if (waiting) event.preventDefault(); });

// The threshold: what is below it stands out, and what it would cost and catch is said in words.
function beginThreshold() {
  const workload = document.getElementById("workload");
  if (!workload) return;
  const points = JSON.parse(workload.dataset.curve);
  const unit = workload.dataset.unit;
  const label = document.createElement("label");
  const range = document.createElement("input");
  const words = document.createElement("output");
  const certified = 1 + points.findIndex((point) => point.certified); // 0: none, and nothing is below it
  Object.assign(range, { type: "range", min: 0, max: points.length, step: 1, value: certified, id: "threshold" });
  const scale = document.createElement("span");
  scale.className = "scale";
  scale.append(range);
  if (certified) {
    const mark = document.createElement("span");
    mark.textContent = "▲";
    mark.setAttribute("aria-hidden", "true");
    mark.style.left = `calc(.5rem + ${certified / points.length} * (100% - 1rem))`; // the middle of the thumb
    scale.append(mark);
  }
  label.append("Read below ", scale);
  document.getElementById("slider").append(label, words);
  const percent = (share) => `${Math.round(100 * share)}\u00a0%`;
  const tell = () => {
    const point = points[range.value - 1];
    const below = point?.threshold ?? 0;
    for (const item of sentences) {
      const low = item.dataset.confidence !== undefined && Number(item.dataset.confidence) < below - 1e-9;
      item.classList.toggle("below", low);
      document.getElementById(`t${item.dataset.sentence}`)?.classList.toggle("below", low);
    }
    const what = (point?.name ?? "0.0") + (point?.certified ? " (certified)" : "");
    range.setAttribute("aria-valuetext", what);
    words.textContent = point
      ? `${what}: ${percent(point.read)} of the ${unit} to read, ${percent(point.caught)} of the errors caught `
        + `(random order ${percent(point.read)}, perfect ${percent(point.perfect)}).`
      : "Nothing to read, nothing caught.";
  };
  range.addEventListener("input", tell);
  tell();
}

/** Take up the report that the page shows. */
function begin() {
  ahead = null;
  current = -1;
  sentences = [...document.querySelectorAll(".sentence")];
  for (const [index, item] of sentences.entries()) {
    item.addEventListener("focusin", () => { if (index !== current) { sentences[current]?.classList.remove("now"); current = index; item.classList.add("now"); } });
  }
  beginTexts();
  beginThreshold();
  beginFilms();
  go(0);
}

begin();
fetchAhead();
