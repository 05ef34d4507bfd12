"use strict";
// The page of a rater: consent, then one task after another. Texts become text nodes, never markup.
const data = JSON.parse(document.getElementById("data").textContent);
const node = (id) => document.getElementById(id);
const token = location.hash.slice(1);
const store = `study ${data.study} ${token}`;
const pause = (seconds) => new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
let tasks = [], done = new Map(), current = -1, started = 0, marked = 0, busy = false, held = false;

function make(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function show(part) {
  for (const id of ["consent", "task", "end"]) node(id).hidden = id !== part;
}

function say(text) {
  node("problem").textContent = text;
  node("problem").hidden = !text;
}

// ------------------------------------------------------------------------- where answers go

class Final extends Error {}

// Ask the server until it answers: a vote that is not acknowledged is sent again, and it keeps each once.
async function ask(path, body) {
  for (let wait = 1; ; wait = Math.min(30, 2 * wait)) {
    let delay = wait;
    try {
      const answer = await fetch(path, {
        method: body ? "POST" : "GET",
        headers: { Authorization: `Bearer ${token}`, ...(body && { "Content-Type": "application/json" }) },
        body: body && JSON.stringify(body),
        signal: AbortSignal.timeout(20000),
      });
      if (answer.ok) { say(""); return await answer.json(); }
      if (answer.status === 401) throw new Final("This link is not valid. Please ask for a new one.");
      if (answer.status === 409) { say(""); return await answer.json(); }
      if (answer.status < 500 && answer.status !== 429 && answer.status !== 408) {
        throw new Final("The answer was not accepted. Please load the page again.");
      }
      delay = Number(answer.headers.get("Retry-After")) || wait;
    } catch (error) {
      if (error instanceof Final) throw error;
    }
    if (delay > 1) say("Not saved yet: the server does not answer. Trying again …");
    await pause(delay);
  }
}

const served = {
  async open() {
    const session = await ask("session");
    tasks = session.tasks;
    for (const number of session.done) done.set(number, null);
    return session.agreed;
  },
  agree: () => ask("consent", {}),
  vote: (vote) => ask("vote", vote),
};

// Without a server votes stay in this browser until they are saved to a file.
const local = {
  async open() {
    const rater = /^(\d{1,6})-[0-9a-f]{32}$/.exec(token);
    tasks = rater && data.raters[rater[1] - 1];
    if (!tasks) throw new Final("This link is not valid. Please ask for a new one.");
    node("resume").hidden = node("save").hidden = node("keep").hidden = false;
    let kept = null;
    try { kept = JSON.parse(localStorage.getItem(store)); } catch { /* nothing is kept here */ }
    this.take(kept || []);
    return kept !== null;
  },
  take(votes) {
    for (const vote of votes) if (tasks[vote.task] && !done.has(vote.task)) done.set(vote.task, vote);
  },
  async agree() { this.write(); },
  async vote() { this.write(); },
  write() {
    try { localStorage.setItem(store, JSON.stringify([...done.values()])); }
    catch { say("This browser keeps nothing: save your answers before you close the page."); }
  },
  file() {
    return { format: data.format, study: data.study, token, votes: [...done.values()] };
  },
  download() {
    const address = URL.createObjectURL(new Blob([JSON.stringify(this.file())], { type: "application/json" }));
    make("a", { href: address, download: `votes-${token.split("-")[0]}.json` }).click();
    setTimeout(() => URL.revokeObjectURL(address), 10000);
  },
  async load(file) {
    try {
      const saved = JSON.parse(await file.text());
      if (saved.study !== data.study || saved.token !== token) throw new Error();
      this.take(saved.votes);
      this.write();
      say("");
      await advance();
    } catch { say("This file holds no answers to this study under this link."); }
  },
};
const keeper = data.served ? served : local;

// ------------------------------------------------------------------------------- one task

const videos = () => [...node("clips").querySelectorAll("video")];
const fieldsets = () => [...node("answers").querySelectorAll("fieldset")];

function figure(source, name) {
  const video = make("video", { src: source, muted: true, loop: true, playsInline: true, preload: "auto" });
  video.ariaLabel = name ? `Video ${name}` : "Video";
  video.addEventListener("loadedmetadata", () => video.classList.toggle("pixels", video.videoWidth <= 128));
  video.addEventListener("error", () => say("A video cannot be loaded. Please check your connection and load the page again."));
  return make("figure", {}, ...(name ? [make("figcaption", { textContent: name })] : []), video);
}

function question([column, kind, text], number) {
  const options = kind === "choice" ? data.choices : data.scale.map((words, place) => [String(place + 1), `${place + 1} ${words}`]);
  const labels = options.map(([value, words]) => {
    const radio = make("input", { type: "radio", name: column, value });
    radio.addEventListener("change", () => { mark(number); ready(); });
    return make("label", {}, radio, words);
  });
  const box = make("fieldset", {}, make("legend", { textContent: text }), make("div", { className: "options" }, ...labels));
  box.addEventListener("focusin", () => mark(number));
  return box;
}

function mark(number) {
  marked = number;
  fieldsets().forEach((box, place) => box.classList.toggle("current", place === number));
}

const answered = () => fieldsets().every((box) => box.querySelector(":checked"));

function ready() {
  node("next").disabled = busy || !answered();
}

function together(play) {
  held = !play;
  for (const video of videos()) play ? video.play().catch(() => {}) : video.pause();
  node("play").textContent = play ? "pause" : "play";
}

function restart() {
  for (const video of videos()) video.currentTime = 0;
  together(true);
}

async function advance() {
  const open = tasks.findIndex((_, number) => !done.has(number));
  node("done").hidden = false;
  node("progress").value = done.size / tasks.length;
  node("count").textContent = `${done.size} of ${tasks.length}`;
  if (open < 0) {
    for (const video of videos()) video.removeAttribute("src");
    node("clips").replaceChildren();
    node("ended").textContent = data.served ? "All your answers are saved. You can close this page."
      : "Please save your answers to a file and send it to who asked you.";
    return show("end");
  }
  current = open;
  const task = tasks[current];
  node("prompt").textContent = task.prompt;
  node("clips").replaceChildren(...task.clips.map((source, place) => figure(source, task.clips.length > 1 ? "AB"[place] : "")));
  node("answers").replaceChildren(...task.questions.map(question));
  mark(0);
  ready();
  show("task");
  scrollTo(0, 0);
  started = performance.now();
  held = false;
  const loaded = (video) => video.readyState > 2 || new Promise((resolve) => video.addEventListener("canplay", resolve, { once: true }));
  await Promise.race([Promise.all(videos().map(loaded)), pause(20)]);
  if (current === open && !held) together(true);
}

async function submit() {
  if (busy || !answered() || node("task").hidden) return;
  busy = true;
  ready();
  const task = tasks[current], answers = {};
  for (const [column, kind] of task.questions) {
    const value = fieldsets().flatMap((box) => [...box.querySelectorAll(":checked")]).find((radio) => radio.name === column).value;
    answers[column] = kind === "choice" ? value : Number(value);
  }
  const vote = { task: current, answers, seconds: Math.round(performance.now() - started) / 1000 };
  await attempt(async () => {
    if (!data.served) done.set(current, vote);
    await keeper.vote(vote);
    done.set(current, vote);
    await advance();
  });
  busy = false;
  ready();
}

async function attempt(action) {
  try { await action(); } catch (error) {
    if (error instanceof Final) { say(error.message); show(""); } else throw error;
  }
}

document.addEventListener("keydown", (event) => {
  if (node("task").hidden || event.ctrlKey || event.metaKey || event.altKey) return;
  const box = fieldsets()[marked], radios = box ? [...box.querySelectorAll("input")] : [];
  const radio = radios[Number(event.key) - 1];
  if (radio) {
    radio.click();
    mark(Math.min(marked + 1, fieldsets().length - 1));
  } else if (event.key === "ArrowUp" || event.key === "ArrowDown") {
    mark(Math.max(0, Math.min(fieldsets().length - 1, marked + (event.key === "ArrowDown" ? 1 : -1))));
  } else if (event.key === "Enter" && event.target.tagName !== "BUTTON" && event.target.tagName !== "SUMMARY") submit();
  else if (event.key === " " && event.target.tagName !== "BUTTON" && event.target.tagName !== "SUMMARY") node("play").click();
  else if (event.key === "r") restart();
  else return;
  event.preventDefault();
});

node("agree").addEventListener("click", () => attempt(async () => { await keeper.agree(); await advance(); }));
node("next").addEventListener("click", submit);
node("play").addEventListener("click", () => together(node("play").textContent === "play"));
node("again").addEventListener("click", restart);
for (const id of ["save", "keep"]) node(id).addEventListener("click", () => local.download());
node("file").addEventListener("change", (event) => event.target.files[0] && local.load(event.target.files[0]));
node("answers").addEventListener("submit", (event) => event.preventDefault());
addEventListener("hashchange", () => location.reload());
attempt(async () => { await keeper.open() ? await advance() : show("consent"); });
