"use strict";
// Texts reach the document as text alone: nothing here parses markup.
const $ = (id) => document.getElementById(id);

function make(tag, content = {}, ...children) {
  const node = Object.assign(document.createElement(tag), content);
  node.append(...children);
  return node;
}

function draw(tag, attributes, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

// ---------------------------------------------------------------------------------- tables and plots

for (const button of document.querySelectorAll(".sortable thead button")) {
  button.addEventListener("click", () => {
    const head = button.closest("th"), body = head.closest("table").tBodies[0];
    const turn = head.ariaSort === "descending" ? "ascending" : head.ariaSort === "ascending" ? "descending"
      : head.dataset.direction === "higher" ? "descending" : "ascending";
    for (const other of head.parentNode.cells) other.ariaSort = "none";
    head.ariaSort = turn;
    const sign = turn === "ascending" ? 1 : -1;
    const key = (row) => {
      const cell = row.cells[head.cellIndex];
      return cell === undefined ? "" : cell.tagName === "TH" ? cell.textContent : parseFloat(cell.dataset.value);
    };
    // What has no number stays last either way.
    const order = (a, b) => typeof a === "string" ? sign * a.localeCompare(b) : (isNaN(a) - isNaN(b)) || sign * (a - b) || 0;
    body.append(...[...body.rows].sort((a, b) => order(key(a), key(b))));
  });
}

function tip(event) {
  const on = event.target.closest?.("[data-tip]");
  $("tip").hidden = !on?.dataset.tip;
  if (!on) return;
  $("tip").textContent = on.dataset.tip;
  const box = on.getBoundingClientRect(), own = $("tip").getBoundingClientRect();
  $("tip").style.left = `${Math.max(4, Math.min(box.left + box.width / 2, innerWidth - own.width - 4))}px`;
  $("tip").style.top = `${box.top - own.height - 6 > 0 ? box.top - own.height - 6 : box.bottom + 6}px`;
}
for (const kind of ["pointerover", "focusin"]) document.addEventListener(kind, tip);
for (const kind of ["scroll", "focusout"]) document.addEventListener(kind, () => { $("tip").hidden = true; }, { passive: true });

// ------------------------------------------------------------------------------------- state and address

const data = JSON.parse($("data").textContent);
const DEFAULTS = { section: "", query: "", attribute: "", value: "0", of: "", least: "", most: "", sort: "", ten: "", first: "", second: "",
  difference: "", gain: "0", curve: "", size: "220", speed: "1", loop: "1", models: "", row: "", at: "0" };
const CONTROLS = ["section", "query", "attribute", "value", "of", "least", "most", "sort", "ten", "first", "second", "difference", "gain",
  "curve", "size", "speed", "loop"];
const MOST_MODELS = 4, MOST_LISTED = 100;
let state = { ...DEFAULTS };
let section = null, arms = [], rows = [], length = 1, rate = 1;

function readAddress() {
  state = { ...DEFAULTS };
  const asked = new URLSearchParams(location.hash.slice(1));
  for (const name of Object.keys(DEFAULTS)) if (asked.has(name)) state[name] = asked.get(name);
}

function writeAddress() {
  const said = new URLSearchParams();
  for (const [name, value] of Object.entries(state)) if (value !== DEFAULTS[name]) said.set(name, value);
  const hash = said.toString();
  if (hash !== location.hash.slice(1)) history.replaceState(null, "", hash ? `#${hash}` : "#clips");
}

// ------------------------------------------------------------------------------------ which clips to show

const score = (row, arm) => row.cells[arm]?.scores?.[state.value];

function badness(row) {
  // How much worse B is than A, in the value's own direction.
  const a = score(row, +state.first), b = score(row, +state.second);
  if (a === undefined || b === undefined) return NaN;
  const direction = section.values[state.value]?.direction;
  return direction === "lower" ? b - a : direction === "zero" ? Math.abs(b) - Math.abs(a) : a - b;
}

function choose() {
  const words = state.query.toLowerCase(), [name, ...rest] = state.attribute.split("=");
  const least = state.least === "" ? -Infinity : +state.least, most = state.most === "" ? Infinity : +state.most;
  const bounded = state.least !== "" || state.most !== "";
  // Twelve digits: a difference of decimal fractions is seldom the fraction that a person types.
  const change = (row) => +(score(row, +state.second) - score(row, +state.first)).toPrecision(12);
  const numbers = { first: (row) => [score(row, +state.first)], second: (row) => [score(row, +state.second)], change: (row) => [change(row)] }[state.of]
    ?? ((row) => arms.map((arm) => score(row, arm)));
  let found = section.rows.filter((row) => {
    if (words && !row.prompt.toLowerCase().includes(words)) return false;
    if (state.attribute && !about(row)[name]?.includes(rest.join("="))) return false;
    return !bounded || numbers(row).some((number) => number >= least && number <= most);
  });
  const keys = { prompt: (row) => row.prompt, low: (row) => score(row, +state.second) ?? NaN,
    high: (row) => -(score(row, +state.second) ?? NaN), worst: (row) => -badness(row), best: badness };
  if (keys[state.sort]) {
    const keyed = found.map((row) => [keys[state.sort](row), row]);
    keyed.sort(([a], [b]) => typeof a === "string" ? a.localeCompare(b) : (isNaN(a) - isNaN(b)) || a - b || 0);
    found = keyed.map(([, row]) => row);
  }
  return state.ten ? found.slice(0, 10) : found;
}

function about(row) {
  const cells = arms.map((arm) => row.cells[arm]);
  const there = cells.filter((cell) => cell?.file).length;
  return { ...row.about, clips: [there === arms.length ? "all there" : there ? "some missing" : "none"] };
}

// --------------------------------------------------------------------------------------------- one row

const live = new Set();
const elements = new Map();

function fill(element) {
  if (element.childElementCount) return;
  const row = rows[element.dataset.number];
  const head = make("div", { className: "prompt" }, make("p", { textContent: row.prompt || "(no prompt)" }));
  if (row.prompt.length > 200) {
    const more = make("button", { type: "button", textContent: "whole prompt" });
    more.addEventListener("click", () => head.classList.toggle("whole"));
    head.append(more);
  }
  const extras = Object.entries(row.about).map(([name, texts]) => `${name} ${texts.join(", ")}`).join(", ");
  if (extras) head.append(make("small", { textContent: extras }));
  const link = make("a", { textContent: "link", href: "#", ariaLabel: "Link to this prompt in this state" });
  link.addEventListener("click", (event) => { event.preventDefault(); state.row = address(row); writeAddress(); });
  head.append(link);
  const cells = make("div", { className: "cells" }, ...arms.map((arm) => cell(row, arm)));
  if (state.difference) cells.append(difference(row));
  element.append(head, cells);
  element.classList.toggle("long", arms.some((arm) => row.cells[arm]?.strip));
  element.style.minHeight = "";
}

function empty(element) {
  if (!element.childElementCount) return;
  element.style.minHeight = `${element.offsetHeight}px`;
  for (const video of element.querySelectorAll("video")) {
    live.delete(video);
    video.removeAttribute("src");
    video.load();
  }
  element.replaceChildren();
}

function cell(row, arm) {
  const clip = row.cells[arm], name = data.arms[arm].label;
  const figure = make("figure", { className: "cell" });
  figure.classList.toggle("is-first", arms.length > 1 && arm === +state.first);
  figure.classList.toggle("is-second", arms.length > 1 && arm === +state.second);
  if (clip?.file) {
    const video = make("video", { muted: true, playsInline: true, preload: "auto", ariaLabel: `${name}: ${row.prompt.slice(0, 200)}` });
    [video.width, video.height] = clip.size;
    video.style.aspectRatio = `${clip.size[0]} / ${clip.size[1]}`;
    video.classList.toggle("pixels", clip.size[0] <= 128);
    video.clip = clip;
    video.arm = arm;
    video.addEventListener("loadedmetadata", () => place(video));
    video.addEventListener("seeked", () => paint(video.closest(".row")));
    video.addEventListener("error", () => {
      if (video.getAttribute("src")) figure.querySelector(".state").textContent = " This browser does not play it.";
    });
    video.src = clip.file;
    live.add(video);
    figure.append(video);
  } else {
    figure.append(make("div", { className: "absent", textContent: clip?.reason ?? "not in this run's plan" }));
  }
  const label = make("span", { className: "arm", textContent: name });
  label.append(...data.arms[arm].marks.map(([mark, text]) => make("sup", { textContent: mark, title: text })));
  const caption = make("figcaption", {}, label, make("span", { className: "state" }));
  if (clip?.preview) caption.append(" ", make("span", { className: "badge", textContent: "preview copy", title: "The clip's own format does not play in every browser." }));
  caption.append(...scores(clip));
  figure.append(caption);
  if (clip?.strip) figure.append(track(clip, name));
  return figure;
}

function scores(clip) {
  const known = Object.entries(clip?.scores ?? {}).sort(([a], [b]) => (b === state.value) - (a === state.value) || a - b);
  if (!known.length) return [];
  const list = (pairs) => make("dl", {}, ...pairs.flatMap(([place, number]) => {
    const value = section.values[place], main = place === state.value ? "main" : "";
    return [make("dt", { textContent: value.label + (value.unit ? ` (${value.unit})` : ""), className: main }),
      make("dd", { textContent: String(number), className: main })];
  }));
  const parts = [list(known.slice(0, 3))];
  if (known.length > 3) parts.push(make("details", {}, make("summary", { textContent: `${known.length - 3} more scores` }), list(known.slice(3))));
  return parts;
}

function track(clip, name) {
  const numbers = clip.curves?.[state.curve] ?? [];
  const known = numbers.filter((number) => number !== null);
  const low = Math.min(...known, 0), high = Math.max(...known, 0);
  const x = (share) => (100 * share).toFixed(2), y = (number) => (28 - 26 * (number - low) / (high - low || 1)).toFixed(2);
  const points = numbers.map((number, i) => number === null ? "" : `${x((i + 0.5) / numbers.length)},${y(number)}`).filter(Boolean);
  const drawing = draw("svg", { viewBox: "0 0 100 30", preserveAspectRatio: "none", "aria-hidden": "true" },
    draw("polyline", { points: points.join(" ") }),
    ...(clip.switches ?? []).map(([frame]) => draw("line", { class: "switch", x1: x(frame / clip.frames), x2: x(frame / clip.frames), y1: 0, y2: 30 })));
  const cursor = make("div", { className: "cursor" });
  const said = (clip.switches ?? []).map(([frame, text]) => `from frame ${frame}: ${text}`);
  const box = make("div", { className: "track", title: said.join("\n"), role: "img",
    ariaLabel: `${name}: ${state.curve || "no curve"} ${known.join(", ")}${said.length ? `; ${said.join("; ")}` : ""}` },
  make("img", { src: clip.strip, alt: "", loading: "lazy" }), drawing, cursor);
  if (known.length) box.append(make("span", { className: "ends", textContent: low < high ? `${low} to ${high}` : low }));
  const go = (event) => {
    const bounds = box.getBoundingClientRect(), share = (event.clientX - bounds.left) / bounds.width;
    seek(Math.max(0, Math.min(0.999999, share)) * clip.frames / clip.rate);
  };
  box.addEventListener("pointerdown", (event) => { box.setPointerCapture(event.pointerId); go(event); });
  box.addEventListener("pointermove", (event) => { if (event.buttons) go(event); });
  cursor.clip = clip;
  point(cursor);
  return box;
}

function difference(row) {
  const [a, b] = [row.cells[state.first], row.cells[state.second]];
  const figure = make("figure", { className: "cell" });
  if (a?.file && b?.file && state.first !== state.second) {
    const canvas = make("canvas", { width: a.size[0], height: a.size[1], role: "img", ariaLabel: "Difference of A and B" });
    canvas.classList.toggle("pixels", a.size[0] <= 128);
    figure.append(canvas);
  } else figure.append(make("div", { className: "absent", textContent: "needs a clip of A and one of B" }));
  figure.append(make("figcaption", {}, make("span", { className: "arm", textContent: `A − B, ${["1×", "", "4×", "", "16×"][state.gain]}` })));
  return figure;
}

function paint(element) {
  const canvas = element?.querySelector("canvas");
  if (!canvas) return;
  const [a, b] = [state.first, state.second].map((arm) => [...element.querySelectorAll("video")].find((video) => video.arm === +arm));
  if (!(a?.readyState > 1 && b?.readyState > 1)) return;
  const pen = canvas.getContext("2d");
  pen.globalCompositeOperation = "copy";
  pen.drawImage(a, 0, 0, canvas.width, canvas.height);
  pen.globalCompositeOperation = "difference";
  pen.drawImage(b, 0, 0, canvas.width, canvas.height);
  pen.globalCompositeOperation = "lighter";
  for (let doubled = 0; doubled < +state.gain; doubled++) pen.drawImage(canvas, 0, 0);
}

// -------------------------------------------------------------------------------------------- all rows

// Rows further away than a screen hold no video, so that any number of clips can be scrolled through.
const watcher = new IntersectionObserver((changes) => {
  for (const { target, isIntersecting } of changes) isIntersecting ? fill(target) : empty(target);
}, { rootMargin: "300px 0px" });

function show() {
  watcher.disconnect();
  for (const element of elements.values()) empty(element);
  elements.clear();
  rows = choose();
  $("rows").style.setProperty("--tile", `${state.size}px`);
  rows.forEach((row, number) => {
    const element = make("article", { className: "row", tabIndex: -1, role: "listitem", ariaLabel: row.prompt.slice(0, 200) });
    element.dataset.number = number;
    elements.set(row, element);
  });
  $("rows").replaceChildren(...elements.values());
  // The height of one row stands for those that are empty, so a jump past them ends where it should.
  if (rows.length) fill(elements.get(rows[0]));
  $("rows").style.setProperty("--row", `${elements.get(rows[0])?.offsetHeight ?? 0}px`);
  for (const element of elements.values()) watcher.observe(element);
  const clips = rows.flatMap((row) => arms.filter((arm) => row.cells[arm]?.file)).length;
  const said = `${rows.length} of ${section.rows.length} prompts and seeds, ${clips} clips`;
  $("count").textContent = rows.length ? said : "No prompt fits the filters.";
}

const address = (row) => `${row.seed}:${row.prompt.slice(0, 60)}`;

function refresh() {
  for (const name of CONTROLS) {
    const control = $(name);
    if (control.type === "checkbox") control.checked = Boolean(state[name]);
    else control.value = state[name];
    // An address may say anything: what is no choice gives way to the default.
    const odd = control.tagName === "SELECT" && control.options.length && control.value !== state[name];
    if (odd) control.value = state[name] = name in { first: 0, second: 0 } ? state[name] : DEFAULTS[name];
  }
  show();
  update();
}

function options(select, pairs) {
  select.replaceChildren(...pairs.map(([value, text]) => make("option", { value, textContent: text })));
  select.closest("label").hidden = !pairs.length;
}

const planned = () => [...new Set(section.rows.flatMap((row) => Object.keys(row.cells).map(Number)))].sort((a, b) => a - b);

function setSection() {
  section = data.sections.find((each) => each.name === state.section) ?? data.sections[0];
  state.section = section.name;
  const asked = state.models.split(",").filter(Boolean).map((label) => data.arms.findIndex((arm) => encodeURIComponent(arm.label) === label));
  const present = planned();
  arms = asked.filter((arm) => present.includes(arm));
  if (!arms.length) arms = present.slice(0, MOST_MODELS);
  setArms();
  options($("section"), data.sections.map(({ name }) => [name, name]));
  options($("value"), section.values.map((value, place) => [place, value.label]));
  options($("curve"), section.curves.map((name) => [name, name]));
  if (!section.curves.includes(state.curve)) state.curve = section.curves[0] ?? "";
  if (!section.values[state.value]) state.value = "0";
  const pairs = (row) => Object.entries(about(row)).flatMap(([name, texts]) => texts.map((text) => `${name}=${text}`));
  const attributes = new Set(section.rows.flatMap(pairs));
  options($("attribute"), [["", "any"], ...[...attributes].sort().slice(0, 500).map((text) => [text, text.replace("=", ": ")])]);
  const clips = section.rows.flatMap((row) => Object.values(row.cells)).filter((clip) => clip.file);
  rate = clips.reduce((most, clip) => Math.max(most, clip.rate), 1);
  length = clips.reduce((most, clip) => Math.max(most, clip.frames / clip.rate), 1 / rate);
  $("player").hidden = !clips.length;
  $("scrub").max = Math.max(0, Math.round(length * rate) - 1);
  clock.at = Math.min(length - 0.5 / rate, ((parseInt(state.at) || 0) + 0.5) / rate);
}

function setArms() {
  const pairs = arms.map((arm) => [String(arm), data.arms[arm].label]), present = planned();
  for (const [place, name] of ["first", "second"].entries()) {
    options($(name), arms.length > 1 ? pairs : []);
    if (!arms.includes(+state[name]) || state[name] === "") state[name] = String(arms[place] ?? arms[0]);
  }
  $("models").hidden = present.length < 2;
  $("models").querySelector("summary").textContent = `Models: ${arms.length} of ${present.length}`;
  const words = $("find").value.toLowerCase();
  const listed = present.filter((arm) => data.arms[arm].label.toLowerCase().includes(words))
    .sort((a, b) => arms.includes(b) - arms.includes(a) || a - b).slice(0, MOST_LISTED);
  $("chosen").replaceChildren(...listed.map((arm) => {
    const box = make("input", { type: "checkbox", checked: arms.includes(arm) });
    box.addEventListener("change", () => {
      const now = box.checked ? [...arms, arm].sort((a, b) => a - b) : arms.filter((each) => each !== arm);
      change("models", now.map((each) => encodeURIComponent(data.arms[each].label)).join(","));
    });
    return make("label", { className: "check" }, box, ` ${data.arms[arm].label}`);
  }));
}

// --------------------------------------------------------------------------------- one clock for all clips

const clock = { at: 0, playing: false, before: 0, waiting: 0, seeks: new WeakMap() };

// The middle of a frame: at its very start a browser may still show the frame before.
const middle = (video, at) => {
  const { frames, rate: own } = video.clip;
  return (Math.min(frames - 1, Math.floor(at * own + 1e-6)) + 0.5) / own;
};

function place(video) {
  video.currentTime = clock.playing ? Math.min(clock.at, middle(video, 1e9)) : middle(video, clock.at);
  if (clock.playing) video.play().catch(() => {});
}

function seek(at) {
  clock.at = (Math.min(Math.round(length * rate) - 1, Math.max(0, Math.floor(at * rate + 1e-6))) + 0.5) / rate;
  for (const video of live) if (video.readyState) video.currentTime = clock.playing ? clock.at : middle(video, clock.at);
  update();
}

const frame = () => Math.min(+$("scrub").max, Math.floor(clock.at * rate + 1e-6));
const step = (count) => { pause(); seek((frame() + count + 0.5) / rate); writeAddress(); };

function play() {
  if (clock.at >= length - 1 / rate) clock.at = 0;
  clock.playing = true;
  clock.before = performance.now();
  clock.waiting = clock.before + 1500;
  for (const video of live) if (video.readyState) place(video);
  $("play").textContent = "Pause";
  $("play").ariaPressed = "true";
  requestAnimationFrame(tick);
}

function pause() {
  clock.playing = false;
  for (const video of live) video.pause();
  $("play").textContent = "Play";
  $("play").ariaPressed = "false";
  seek(clock.at);
  state.at = String(frame());
}

function tick(now) {
  if (!clock.playing) return;
  const seconds = Math.min(0.25, (now - clock.before) / 1000);
  clock.before = now;
  // At the start all clips wait for the slowest; later a slow one has to catch up.
  const ready = [...live].every((video) => video.readyState > 2 || video.error);
  if (ready) clock.waiting = 0;
  if (ready || now > clock.waiting) clock.at += seconds * +state.speed;
  if (clock.at >= length) {
    if (!state.loop) { clock.at = length - 0.5 / rate; pause(); writeAddress(); return; }
    clock.at = 0;
  }
  for (const video of live) follow(video, now);
  for (const element of document.querySelectorAll(".row:has(canvas)")) paint(element);
  update();
  requestAnimationFrame(tick);
}

function follow(video, now) {
  if (!video.readyState) return;
  const last = middle(video, 1e9), own = video.clip.rate;
  if (clock.at >= last) {
    if (!video.paused || Math.abs(video.currentTime - last) > 0.5 / own) { video.pause(); video.currentTime = last; }
    return;
  }
  const ahead = video.currentTime - clock.at;
  if (video.paused && !video.seeking) video.play().catch(() => {});
  if (Math.abs(ahead) > 1 / own && !video.seeking && now - (clock.seeks.get(video) ?? 0) > 400) {
    clock.seeks.set(video, now);
    video.currentTime = clock.at;
  }
  // A slightly other speed brings it back without a visible jump.
  const speed = Math.max(0.0625, +state.speed * (1 - Math.max(-0.3, Math.min(0.3, 3 * ahead))));
  if (Math.abs(video.playbackRate - speed) > 0.01) video.playbackRate = speed;
}

const point = (cursor) => { cursor.style.left = `${100 * Math.min(1, clock.at * cursor.clip.rate / cursor.clip.frames)}%`; };

function update() {
  const now = frame();
  $("scrub").value = now;
  const said = `frame ${now} of ${+$("scrub").max + 1} · ${(now / rate).toFixed(2)} s`;
  $("place").textContent = said;
  $("scrub").setAttribute("aria-valuetext", said);
  document.querySelectorAll(".cursor").forEach(point);
}

// ------------------------------------------------------------------------------------------ keys and start

function nextRow(direction) {
  const all = [...elements.values()], here = all.indexOf(document.activeElement?.closest(".row"));
  const seen = all.findIndex((element) => element.getBoundingClientRect().bottom > 140);
  visit(all[here < 0 ? Math.max(0, seen) : Math.max(0, Math.min(all.length - 1, here + direction))]);
}

function visit(element) {
  element?.scrollIntoView({ block: "start" });
  element?.focus({ preventScroll: true });
}

function change(name, value) {
  state[name] = value;
  if (name === "speed" || name === "loop") return writeAddress();
  if (name === "section") pause(), Object.assign(state, { ...DEFAULTS, section: value, size: state.size, speed: state.speed, loop: state.loop });
  if (name === "section" || name === "models") setSection();
  refresh();
  writeAddress();
}

function faster(by) {
  const speeds = [...$("speed").options].map((option) => option.value);
  state.speed = $("speed").value = speeds[Math.max(0, Math.min(speeds.length - 1, speeds.indexOf($("speed").value) + by))];
  writeAddress();
}

const KEYS = {
  " ": () => clock.playing ? (pause(), writeAddress()) : play(), ArrowLeft: (event) => step(event.shiftKey ? -10 : -1),
  ArrowRight: (event) => step(event.shiftKey ? 10 : 1), Home: () => step(-1e9), End: () => step(1e9),
  j: () => nextRow(1), k: () => nextRow(-1), "+": () => faster(1), "=": () => faster(1), "-": () => faster(-1),
  l: () => $("loop").click(), d: () => $("difference").click(), w: () => { state.sort = "worst"; change("ten", "1"); }, "/": () => $("query").focus(), "?": () => $("help").showModal(),
};

function start() {
  readAddress();
  setSection();
  refresh();
  visit([...elements].find(([row]) => state.row && address(row) === state.row)?.[1]);
}

if (data.sections.length) {
  $("controls").hidden = false;
  $("filters").open = innerWidth > 600;
  $("controls").addEventListener("submit", (event) => event.preventDefault());
  for (const name of CONTROLS) {
    const control = $(name), typed = control.matches("[type=search], [type=number]");
    control.addEventListener(typed ? "input" : "change", () => change(name, control.type === "checkbox" ? (control.checked ? "1" : "") : control.value));
  }
  $("find").addEventListener("input", setArms);
  $("play").addEventListener("click", KEYS[" "]);
  $("back").addEventListener("click", () => step(-1));
  $("forward").addEventListener("click", () => step(1));
  $("scrub").addEventListener("input", () => seek((+$("scrub").value + 0.5) / rate));
  $("scrub").addEventListener("change", () => { state.at = String(frame()); writeAddress(); });
  $("keys").addEventListener("click", () => $("help").showModal());
  document.addEventListener("keydown", (event) => {
    const within = event.target.closest("input, select, textarea, dialog") ?? (event.key === " " && event.target.closest("button, summary, a"));
    if (event.ctrlKey || event.metaKey || event.altKey || (within && event.target.id !== "scrub")) return;
    if (KEYS[event.key] && (event.key !== " " || !event.target.closest("button"))) { event.preventDefault(); KEYS[event.key](event); }
  });
  addEventListener("hashchange", () => { if (location.hash.includes("=")) { pause(); start(); } });
  start();
}
