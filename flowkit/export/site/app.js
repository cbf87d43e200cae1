// The page: what the controls do, and the picture as it forms. The model runs in worker.js.

import { fitAll } from "./fit.js";
import { TABLEAUS } from "./flow.js";
import { openScatter } from "./scatter.js";
import { asRow, pathData, penStrokes, svg } from "./sketch.js";

const TOLERANCE = 0.012; // of fitted strokes, in canvas units
const POINTS = 1500; // points in a scatter plot
const KEPT = 12; // earlier drawings
const FASTEST = 900; // milliseconds that a drawing takes to form, at least
const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";

let facts; // model.json
let worker;
let scatter = null; // for points
let width = 10; // numbers per cubic
let count = 1; // samples per request
let request = 0; // number of the newest request
let states = []; // of that request, in the data's units, from noise on
let final = null; // its result
let shown = null; // what Download saves: a row
let mine = []; // pen strokes of the user, as points
let fitted = []; // the same as cubics
let begun = null; // the strokes that the newest request completes
let seed = Math.floor(Math.random() * 2 ** 32);
let playing = 0; // animation frame
let current = {}; // about the picture that is shown
let past = [];

start();
$("retry").onclick = start;

async function start() {
  $("cover").classList.remove("failed");
  $("cover-text").textContent = "Loading the model";
  $("cover-bar").hidden = false;
  $("retry").hidden = true;
  try {
    const response = await fetch("model.json");
    if (!response.ok) throw new Error(`model.json could not be loaded (${response.status} ${response.statusText})`);
    facts = await response.json();
    describe();
    worker?.terminate();
    worker = new Worker("worker.js", { type: "module" });
    worker.onmessage = ({ data }) => heard(data);
    worker.onerror = () => failed("The drawing code did not start. This page requires a browser of 2022 or later.");
    worker.postMessage({ kind: "open", facts });
  } catch (error) {
    const local = "A page opened as a file cannot load its model. Serve its folder, for example with python -m http.server.";
    failed(location.protocol === "file:" ? local : `${error.message}.`);
  }
}

function describe() {
  document.title = facts.title;
  $("title").textContent = facts.title;
  const kind = facts.kind === "sketch" ? "Drawings" : "Points";
  const classes = facts.class_names.length ? ` of ${facts.class_names.length} classes` : "";
  $("about").textContent = `${kind}${classes}, made by a small neural network in your browser.`;
  $("foot").textContent = `${facts.architecture}, ${facts.weights} weights of step ${facts.step}. Trained with flowkit.`;
}

function failed(text) {
  if ($("stage").hidden) {
    $("cover").hidden = false;
    $("cover").classList.add("failed");
    $("cover-text").textContent = text;
    $("cover-bar").hidden = true;
    $("retry").hidden = false;
  } else {
    $("status").classList.add("failed");
    $("status").textContent = text;
  }
}

function heard(data) {
  if (data.kind === "loading") $("cover-bar").value = data.share;
  else if (data.kind === "ready") ready();
  else if (data.kind === "failed") {
    if (data.id === undefined || data.id === request) failed(`Something went wrong: ${data.text}`);
  } else if (data.id !== request) return;
  else if (data.kind === "state") {
    states.push(data.x);
    if (data.total) $("scrub").max = data.total;
  } else if (data.kind === "done") final = data.x;
}

// --- set up ---

function ready() {
  $("cover").hidden = true;
  $("stage").hidden = false;
  width = facts.shape.at(-1);
  if (facts.kind === "points") {
    scatter = openScatter($("scatter"), facts);
    count = POINTS;
    for (const id of ["sheet", "hint", "complete", "undo", "clear"]) $(id).toggleAttribute("hidden", true); // svg has no .hidden
    $("complete").parentElement.classList.add("one");
    $("scatter").hidden = false;
    $("new").textContent = "New points";
    $("end").textContent = "data";
    $("scrub").setAttribute("aria-label", "From noise to data");
  }
  if (!canComplete()) $("complete").hidden = true;
  addClasses();
  for (const name of facts.averages ? ["mean_flow"] : Object.keys(TABLEAUS)) $("solver").add(new Option(name.replace("_", " "), name));
  $("solver").value = facts.solver;
  if (facts.guidance_max > 1) Object.assign($("guidance"), { min: 1, max: facts.guidance_max }); // what it learned
  for (const [id, value] of [["steps", facts.steps], ["guidance", facts.guidance_scale]]) {
    $(id).max = Math.max($(id).max, value);
    $(id).value = value;
  }
  $("steps-field").hidden = facts.grid.name === "custom"; // its times determine the steps
  $("guidance-field").hidden = !(facts.class_names.length && facts.null);
  sayValues();
  connect();
  draw();
}

const canComplete = () => facts.kind === "sketch" && (facts.completes || (facts.score && !facts.averages));

function addClasses() {
  const names = facts.class_names;
  if (!names.length) return;
  $("classes").hidden = false;
  const chip = (value, text, color) => {
    const label = document.createElement("label");
    label.className = "chip";
    const input = Object.assign(document.createElement("input"), { type: "radio", name: "class", value });
    if (color) {
      const dot = document.createElement("i");
      dot.style.setProperty("--color", color);
      label.append(dot);
    }
    label.append(input, text);
    $("chips").append(label);
    return input;
  };
  const first = chip("each", scatter ? "all" : "surprise me");
  names.forEach((name, number) => chip(number, name, scatter && `var(--series-${number % 8})`));
  if (facts.null) chip("null", "no class");
  first.checked = true;
}

function connect() {
  $("new").onclick = () => {
    seed = Math.floor(Math.random() * 2 ** 32);
    [mine, fitted] = [[], []];
    draw();
  };
  $("complete").onclick = () => {
    if (!fitted.length) return;
    seed = Math.floor(Math.random() * 2 ** 32);
    draw();
  };
  $("undo").onclick = () => {
    mine = mine.slice(0, -1);
    edit();
  };
  $("clear").onclick = () => {
    mine = [];
    edit();
  };
  $("download").onclick = download;
  $("chips").onchange = () => {
    if (!mine.length || begun) draw(); // with strokes that wait to be completed, the class is for these
  };
  $("guidance").oninput = $("steps").oninput = sayValues;
  for (const id of ["guidance", "steps", "solver"]) $(id).onchange = () => (!mine.length || begun) && draw();
  $("seed").onchange = () => {
    const wanted = Math.floor(Number($("seed").value));
    if (!(wanted >= 0 && wanted < 2 ** 32)) return sayValues();
    seed = wanted;
    draw();
  };
  $("scrub").oninput = () => {
    cancelAnimationFrame(playing);
    playing = 0;
    show(Number($("scrub").value));
  };
  document.addEventListener("keydown", (event) => {
    const typing = event.target.matches("select, input[type=number]");
    if (typing || event.ctrlKey || event.metaKey || event.altKey || $("stage").hidden) return;
    const button = { n: "new", c: "complete", z: "undo", x: "clear", d: "download" }[event.key.toLowerCase()];
    if (button && !$(button).hidden && !$(button).disabled) $(button).click();
  });
  if (!scatter) connectPen($("sheet"));
  else matchMedia("(prefers-color-scheme: dark)").onchange = () => show(Number($("scrub").value));
  new ResizeObserver(() => scatter && show(Number($("scrub").value))).observe($("frame"));
}

function sayValues() {
  $("guidance-value").textContent = Number($("guidance").value).toFixed(1);
  $("steps-value").textContent = $("steps").value;
  $("seed").value = seed;
}

// --- the user's strokes ---

function connectPen(sheet) {
  let stroke = null;
  let pen = [0, 0];
  let down = false;
  const place = (event) => {
    const box = sheet.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * 2 - 1, ((event.clientY - box.top) / box.height) * 2 - 1].map(inside);
  };
  const begin = (point) => {
    if (begun || final || states.length) mine = []; // a new drawing begins
    stop();
    stroke = [point];
    mine = [...mine, stroke];
    edit();
  };
  const move = (point) => {
    stroke.push(point);
    edit();
  };
  sheet.onpointerdown = (event) => {
    if (event.button !== 0 || stroke) return;
    event.preventDefault();
    sheet.setPointerCapture(event.pointerId);
    sheet.focus({ preventScroll: true });
    down = false;
    begin(place(event));
  };
  sheet.onpointermove = (event) => {
    if (!stroke || down) return;
    for (const one of event.getCoalescedEvents?.() ?? [event]) stroke.push(place(one));
    edit();
  };
  sheet.onpointerup = sheet.onpointercancel = () => {
    if (!down) stroke = null;
    edit();
  };
  sheet.onkeydown = (event) => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (step) {
      pen = pen.map((value, i) => inside(value + step[i] * (event.shiftKey ? 0.01 : 0.05)));
      if (down) move(pen);
    } else if (event.key === "Enter" || event.key === " ") {
      down = !down;
      if (down) begin(pen);
      else stroke = null;
    } else return;
    event.preventDefault();
    showPen(pen, down);
  };
  sheet.onblur = () => {
    if (down) stroke = null;
    down = false;
    document.querySelector("#sheet .pen")?.remove();
  };
}

const inside = (value) => Math.min(0.98, Math.max(-0.98, value));

function showPen([x, y], down) {
  document.querySelector("#sheet .pen")?.remove();
  const dot = document.createElementNS(SVG, "circle");
  for (const [name, value] of Object.entries({ class: "pen", cx: x + 1, cy: y + 1, r: down ? 0.025 : 0.015 })) dot.setAttribute(name, value);
  $("sheet").append(dot);
}

function stop() {
  cancelAnimationFrame(playing);
  playing = 0;
  request += 1;
  worker.postMessage({ kind: "stop", id: request });
  [states, final, begun] = [[], null, null];
}

/** Show the strokes as they are drawn. */
function edit() {
  if (states.length) stop();
  const S = facts.shape[0];
  const most = Math.max(1, Math.floor(0.75 * S)); // leaves some for the model
  fitted = mine.length ? fitAll(mine, TOLERANCE, most) : [];
  const full = fitted === null;
  fitted ??= [];
  paint(fitted.map((cubics) => ({ cubics, mine: true })));
  shown = fitted.length ? asRow(fitted, S, width).row : null;
  $("scrub").disabled = true;
  $("hint").hidden = mine.length > 0;
  $("status").classList.remove("failed");
  $("status").textContent = full
    ? `Too many strokes: this model draws at most ${S} curves. Undo some.`
    : mine.length
      ? canComplete() ? "Complete it, or draw on." : ""
      : "";
  buttons();
}

function buttons() {
  $("complete").disabled = !fitted.length;
  $("undo").disabled = $("clear").disabled = !mine.length;
  $("download").disabled = scatter ? !final : !shown;
}

// --- samples ---

function draw() {
  stop();
  begun = mine.length && fitted.length ? fitted : null;
  states = [];
  $("hint").hidden = true;
  $("status").classList.remove("failed");
  $("status").textContent = begun ? "Completing" : "Drawing";
  $("scrub").disabled = false;
  $("scrub").max = $("scrub").value = Number($("steps").value);
  const given = begun && asRow(begun, facts.shape[0], width);
  const names = facts.class_names;
  const chosen = document.querySelector("[name=class]:checked")?.value ?? "null";
  let labels = null;
  if (names.length && chosen === "each") {
    labels = scatter
      ? Array.from({ length: count }, (_, i) => Math.floor((i * names.length) / count))
      : given && facts.null ? [names.length] : [seed % names.length];
  } else if (names.length) labels = Array(count).fill(chosen === "null" ? names.length : Number(chosen));
  const scale = $("guidance-field").hidden ? 1 : Number($("guidance").value);
  sayValues();
  const label = labels && !scatter ? names[labels[0]] : undefined;
  const started = performance.now();
  worker.postMessage({
    kind: "sample", id: request, seed, count, labels, scale, solver: $("solver").value, steps: Number($("steps").value),
    given: given && { known: given.row, tokens: given.tokens },
  });
  play(request, { started, label, labels, given });
}

/** Show the states as they come, no faster than one drawing in FASTEST milliseconds. */
function play(id, about) {
  const frame = (now) => {
    if (id !== request) return;
    if (scatter && !about.settled) {
      // Points take no time, and their window depends on where they end.
      if (!final) return (playing = requestAnimationFrame(frame));
      scatter.settle(states[0], final);
      about = current = { ...about, settled: true, took: performance.now() - about.started, started: performance.now() };
    }
    const total = Number($("scrub").max);
    const due = Math.floor(((now - about.started) / FASTEST) * total);
    const step = Math.min(due, states.length - 1, total);
    if (step >= 0) {
      $("scrub").value = step;
      show(step, about);
    }
    if (final && step >= total) return finished(about);
    playing = requestAnimationFrame(frame);
  };
  current = about;
  playing = requestAnimationFrame(frame);
}

/** Show the state after `step` steps; the last is the finished drawing. */
function show(step, about = current) {
  const last = final && step >= Number($("scrub").max);
  const x = last ? final : states[Math.min(step, states.length - 1)];
  if (!x) return;
  if (scatter) return scatter.show(x, about.labels, last ? null : states[Math.max(0, step - 1)]);
  const given = about.given?.tokens;
  paint(
    penStrokes(x, width).map(({ cubics, sure, first }) => ({
      cubics, sure: last ? 1 : sure, mine: Boolean(given?.[first]), mixed: given && cubics.length > 1 ? given.subarray(first) : null,
    })),
  );
}

function finished(about) {
  playing = 0;
  const cls = about.label ? `${about.label}, ` : "";
  const seconds = ((about.took ?? performance.now() - about.started) / 1000).toFixed(1);
  $("status").textContent = scatter ? `${count.toLocaleString("en")} points in ${seconds} s` : `${cls}seed ${seed}, ${seconds} s`;
  if (!scatter) {
    shown = final;
    keep({ x: final, about, seed });
  }
  buttons();
}

function paint(strokes) {
  const paths = strokes.flatMap(({ cubics, sure = 1, mine, mixed }) => {
    // A stroke may begin with the user's cubics and go on with the model's.
    const own = mixed ? cubics.findIndex((_, i) => !mixed[i]) : -1;
    const parts = mine && own > 0 ? [[cubics.slice(0, own), true], [cubics.slice(own), false]] : [[cubics, mine]];
    return parts.map(([part, isMine]) => {
      const path = document.createElementNS(SVG, "path");
      path.setAttribute("d", pathData(part, 2, 4));
      if (isMine) path.setAttribute("class", "mine");
      if (sure < 1) path.setAttribute("opacity", Math.max(0.15, sure).toFixed(2));
      return path;
    });
  });
  const pen = document.querySelector("#sheet .pen");
  $("sheet").replaceChildren(...paths, ...(pen ? [pen] : []));
}

/** Keep a small copy of a finished drawing, to come back to. */
function keep(drawing) {
  past = [drawing, ...past.filter((one) => one.x !== drawing.x)].slice(0, KEPT);
  $("past").hidden = past.length < 2;
  $("thumbs").replaceChildren(
    ...past.map((one, number) => {
      const button = Object.assign(document.createElement("button"), { type: "button", className: "thumb" });
      button.setAttribute("aria-label", `Show drawing ${past.length - number}${one.about.label ? `, ${one.about.label}` : ""}`);
      const small = document.createElementNS(SVG, "svg");
      small.setAttribute("viewBox", "0 0 2 2");
      for (const { cubics } of penStrokes(one.x, width)) {
        const path = document.createElementNS(SVG, "path");
        path.setAttribute("d", pathData(cubics, 2, 3));
        small.append(path);
      }
      button.append(small);
      button.onclick = () => {
        stop();
        [final, shown, current, seed] = [one.x, one.x, one.about, one.seed];
        [mine, fitted] = [[], []];
        $("scrub").disabled = true;
        $("scrub").value = $("scrub").max;
        $("hint").hidden = true;
        $("status").textContent = `${one.about.label ? `${one.about.label}, ` : ""}seed ${one.seed}`;
        show(Infinity);
        sayValues();
        buttons();
      };
      return button;
    }),
  );
}

function download() {
  const text = scatter ? scatter.svg(final, current.labels) : svg(shown, width, current.label ?? facts.title);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "image/svg+xml" }));
  link.download = `${(current.label ?? facts.title).replace(/[^\p{L}\p{N}_-]+/gu, "-")}-${seed}.svg`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
