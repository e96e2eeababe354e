// Pictures that can be zoomed, moved, windowed and inverted. Without scripts a picture is a link to its larger form.

const SVG = "http://www.w3.org/2000/svg";
const steps = { min: 1, max: 8 };

/** Give a picture its tools. Window and level are shares of the picture's 256 grey levels. */
function film(figure, number) {
  const stage = figure.querySelector(".stage");
  const image = stage.querySelector("img");
  const large = stage.getAttribute("href");
  const start = { zoom: 1, x: 0, y: 0, window: 1, level: 0.5, inverted: false };
  const state = { ...start };

  // The grey levels pass a straight line: an SVG filter, since CSS's own contrast and brightness cut in between.
  const svg = document.createElementNS(SVG, "svg");
  const filter = document.createElementNS(SVG, "filter");
  const transfer = document.createElementNS(SVG, "feComponentTransfer");
  const lines = ["R", "G", "B"].map((channel) => document.createElementNS(SVG, `feFunc${channel}`));
  for (const line of lines) line.setAttribute("type", "linear");
  filter.id = `film${number}`;
  filter.setAttribute("color-interpolation-filters", "sRGB");
  svg.setAttribute("width", "0");
  svg.setAttribute("height", "0");
  svg.setAttribute("aria-hidden", "true");
  svg.style.position = "absolute";
  transfer.append(...lines);
  filter.append(transfer);
  svg.append(filter);
  figure.append(svg);

  const tools = document.createElement("div");
  tools.className = "tools";
  const button = (text, label, act) => {
    const made = document.createElement("button");
    made.type = "button";
    made.textContent = text;
    made.setAttribute("aria-label", `${label}, ${figure.getAttribute("aria-label").toLowerCase()}`);
    made.addEventListener("click", act);
    tools.append(made);
    return made;
  };
  const range = (name, low) => {
    const label = document.createElement("label");
    const made = document.createElement("input");
    Object.assign(made, { type: "range", min: low, max: 1, step: 0.01 });
    made.addEventListener("input", () => { state[name] = Number(made.value); show(); });
    label.append(name, made);
    tools.append(label);
    return made;
  };
  button("+", "Larger", () => zoom(1.25));
  button("−", "Smaller", () => zoom(0.8));
  const invert = button("Invert", "Invert", () => { state.inverted = !state.inverted; show(); });
  const ranges = { window: range("window", 0.02), level: range("level", 0) };
  button("Reset", "Reset", reset);
  figure.append(tools);
  figure.classList.add("moves");

  function show() {
    const width = stage.clientWidth, height = stage.clientHeight;
    state.x = Math.min(0, Math.max(width * (1 - state.zoom), state.x));
    state.y = Math.min(0, Math.max(height * (1 - state.zoom), state.y));
    image.style.transform = `translate(${state.x}px, ${state.y}px) scale(${state.zoom})`;
    const slope = (state.inverted ? -1 : 1) / state.window;
    const low = state.level - state.window / 2;
    const intercept = state.inverted ? 1 + low / state.window : -low / state.window;
    for (const line of lines) { line.setAttribute("slope", slope); line.setAttribute("intercept", intercept); }
    const plain = state.window === 1 && state.level === 0.5 && !state.inverted;
    image.style.filter = plain ? "" : `url(#film${number})`;
    invert.setAttribute("aria-pressed", String(state.inverted));
    for (const name of ["window", "level"]) ranges[name].value = state[name];
    if (state.zoom > 1.3 && image.getAttribute("src") !== large) image.src = large;
  }
  function zoom(by, x = stage.clientWidth / 2, y = stage.clientHeight / 2) {
    const now = Math.min(steps.max, Math.max(steps.min, state.zoom * by));
    state.x = x - (x - state.x) * (now / state.zoom);
    state.y = y - (y - state.y) * (now / state.zoom);
    state.zoom = now;
    show();
  }
  function grey(window, level) {
    state.window = Math.min(1, Math.max(0.02, state.window + window));
    state.level = Math.min(1, Math.max(0, state.level + level));
    show();
  }
  function reset() { Object.assign(state, start); show(); }

  stage.addEventListener("click", (event) => event.preventDefault());
  stage.addEventListener("dragstart", (event) => event.preventDefault());
  stage.addEventListener("wheel", (event) => {
    event.preventDefault();
    const box = stage.getBoundingClientRect();
    zoom(event.deltaY < 0 ? 1.15 : 1 / 1.15, event.clientX - box.left, event.clientY - box.top);
  }, { passive: false });
  stage.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    figure.focus({ preventScroll: true });
    stage.setPointerCapture(event.pointerId);
    let last = event;
    const move = (next) => {
      const x = next.clientX - last.clientX, y = next.clientY - last.clientY;
      last = next;
      if (next.shiftKey) grey(x / 300, y / 300);
      else { state.x += x; state.y += y; show(); }
    };
    const end = () => {
      stage.removeEventListener("pointermove", move);
      stage.removeEventListener("pointerup", end);
      stage.removeEventListener("pointercancel", end);
    };
    stage.addEventListener("pointermove", move);
    stage.addEventListener("pointerup", end);
    stage.addEventListener("pointercancel", end);
  });
  figure.addEventListener("keydown", (event) => {
    const arrow = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!arrow || event.target.matches("input")) return;
    event.preventDefault();
    if (event.shiftKey) grey(arrow[0] * 0.04, arrow[1] * 0.04);
    else { state.x -= arrow[0] * 40; state.y -= arrow[1] * 40; show(); }
  });
  show();
  return {
    figure,
    keys: {
      "+": () => zoom(1.25), "=": () => zoom(1.25), "-": () => zoom(0.8), "0": reset,
      i: () => { state.inverted = !state.inverted; show(); },
    },
  };
}

let films = [];

/** Give all pictures of the page their tools. */
export function begin() {
  films = [...document.querySelectorAll(".film")].map((figure, index) => film(figure, index + 1));
}

document.addEventListener("keydown", (event) => {
  if (!films.length || event.ctrlKey || event.metaKey || event.altKey || event.target.matches("textarea, input")) return;
  const here = films.find((each) => each.figure.contains(document.activeElement)) ?? films[0];
  here.keys[event.key]?.();
});
