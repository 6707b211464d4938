// The page: a frame clock, keys, and a WebSocket. The server has no clock; this page asks for a step when it is due.

const $ = (id) => document.getElementById(id);
const make = (tag, more = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), more);
  element.append(...children);
  return element;
};
const SPEEDS = [["¼", 0.25], ["½", 0.5], ["1×", 1], ["2×", 2], ["max", Infinity]];
const PLAYERS = [["You", "person"], ["Recording", "episode"], ["Script", "script"], ["Chance", "random"], ["Planner", "planner"]];
const LABELS = { ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓", Space: "space" };
const PLACES = { ArrowUp: [1, 2], ArrowLeft: [2, 1], ArrowDown: [2, 2], ArrowRight: [2, 3], Space: [1, 3] };
const MARGIN = 8; // ms beyond the time of nine in ten late answers
const PATIENCE = 5000; // ms after which an answer is given up
const KEPT = 200; // latencies in the percentiles
const BRIGHTER = 3; // the difference is shown this many times brighter

const s = { // all that changes
  hello: null, socket: null, number: 0, asked: null, buffer: [], shown: null, playing: true, once: false, speed: 1,
  due: 0, trips: [], drawn: [], keys: [], pressed: [], waits: [], rests: [], totals: [], models: [], curve: [], by: "person",
  views: [], futures: false, tune: {}, start: null, front: 0, delay: 500, errors: [], last: null, sliders: [], held: new Map(),
  steps: 0, blocked: null, moved: null, timer: 0,
};

// ---------------------------------------------------------------- talking

function connect() {
  const local = ["localhost", "127.0.0.1", "[::1]"].includes(location.hostname);
  const query = new URLSearchParams(location.search);
  query.set("format", query.get("format") ?? (local ? "raw" : "jpeg"));
  const socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/play?${query}`);
  socket.binaryType = "arraybuffer";
  socket.onmessage = ({ data }) => (typeof data === "string" ? heard(JSON.parse(data)) : pictured(data));
  socket.onclose = ({ code }) => lost(code);
  s.socket = socket;
}

function send(message) {
  if (s.socket?.readyState === WebSocket.OPEN) s.socket.send(JSON.stringify(message));
}

// What leads to another moment: until its answer comes, no step is asked for, and one under way is not shown.
function travel(message) {
  s.blocked = performance.now();
  send(message);
}

function lost(code) {
  Object.assign(s, { asked: null, buffer: [], shown: null, blocked: null });
  const final = code === 1013;
  $("lost").hidden = false;
  $("lost").textContent = final ? "All places are taken. Reload when someone has left." : "The connection is lost. Trying again.";
  if (!final) setTimeout(connect, (s.delay = Math.min(5000, s.delay * 1.5)));
}

function heard(message) {
  if (message.type === "hello") return welcome(message);
  if (message.type === "directions") return showSliders(message.directions);
  say(message.text, message.refused);
  if (message.refused) Object.assign(s, { asked: null, blocked: null });
}

function say(text, refused = false) {
  $("said").textContent = text;
  $("said").classList.toggle("refused", refused);
  if (refused) s.errors.push(text);
}

async function pictured(data) {
  const arrived = performance.now(), view = new DataView(data), length = view.getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
  Object.assign(header, { frames: header.frames ?? 1, at: header.at ?? 0, format: header.format ?? "raw" });
  const [height, width] = header.size, content = new Uint8Array(data, 4 + length);
  const shape = [width * header.frames, height * header.views.length];
  const sheet = header.format === "raw" ? fromRaw(content, ...shape) : await fromJpeg(content, ...shape);
  const step = { header, sheet, next: 0, asked: null };
  if (header.what === "look") return draw($("glance"), step, 0, 0);
  if (header.what === "moved") return showMoved(step);
  if (header.what === "step") {
    if (s.blocked || s.asked?.number !== header.number) return;
    step.asked = s.asked;
    keep(s.trips, arrived - s.asked.sent, 20);
    keep(s.models, header.ms?.model ?? 0);
    Object.assign(s, { asked: null, steps: s.steps + 1 });
  } else {
    Object.assign(s, { buffer: [], asked: null, pressed: [], shown: null, blocked: null, due: 0 });
    s.futures = header.what === "branch";
    if (header.what === "start") s.curve = [];
    if (s.futures) say("Click one to go on, or press its number.");
    else for (const id of ["chance", "each"]) $(id).removeAttribute("aria-pressed");
    if (header.what === "picked") say("");
  }
  if ((header.by ?? "person") !== s.by) setPlayer(header.by ?? "person");
  arrange(header.views);
  s.buffer.push(step);
  if (header.what !== "step") showFrame(performance.now());
}

function fromRaw(content, width, height) {
  const image = new ImageData(width, height), out = new Uint32Array(image.data.buffer);
  for (let i = 0, j = 0; i < out.length; i++, j += 3) out[i] = 0xff000000 | (content[j + 2] << 16) | (content[j + 1] << 8) | content[j];
  return image;
}

async function fromJpeg(content, width, height) {
  const bitmap = await createImageBitmap(new Blob([content], { type: "image/jpeg" }));
  const context = make("canvas", { width, height }).getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  return context.getImageData(0, 0, width, height);
}

const keep = (list, value, most = KEPT) => { list.push(value); if (list.length > most) list.shift(); };
const quantile = (list, q) => list.length ? [...list].sort((a, b) => a - b)[Math.min(list.length - 1, Math.floor(q * list.length))] : null;

// ---------------------------------------------------------------- the clock

const period = () => 1000 / (s.hello.fps * s.speed);

function tick(now) {
  requestAnimationFrame(tick);
  if (!s.hello || !s.views.length) return;
  readGamepad();
  for (const key of ["blocked", "asked"]) if (now - (s[key]?.sent ?? s[key] ?? now) > PATIENCE) s[key] = null;
  const left = s.buffer.reduce((sum, step) => sum + step.header.frames - step.next, 0);
  if ((s.playing || s.once) && left && now >= s.due - 2) showFrame(now);
  const remaining = s.speed === Infinity ? 16.7 * left : Math.max(0, s.due - now) + left * period();
  if (free(left) && !s.timer && remaining <= lead() + 17) s.timer = setTimeout(() => {
    s.timer = 0;
    if (free(left)) ask();
  }, Math.max(0, remaining - lead()));
  showClock(now);
}

const free = (left) => !s.asked && !s.blocked && (s.playing || (s.once && !left)); // to ask for a step

// How long before its first frame is due a step is asked for, in ms.
const lead = () => (quantile(s.trips, 0.9) ?? 60) + MARGIN;

function ask() {
  const k = s.hello.frames, action = currentAction().action;
  s.asked = { number: s.number++, sent: performance.now(), keys: s.pressed };
  s.pressed = [];
  send({ type: "step", number: s.asked.number, actions: Array(k).fill(action) });
}

function showFrame(now) {
  const step = s.buffer[0];
  if (!step) return;
  if (step.next === 0) s.shown = step;
  const frame = step.next++;
  s.views.forEach((view, i) => {
    if (i < step.header.views.length) draw(view.canvas, step, i, frame);
    view.note.textContent = noteOf(step, i, frame);
    view.figure.classList.toggle("over", Boolean(step.header.views[i]?.over));
  });
  drawDifference(step, frame);
  showCoordinates(step.header.coordinates);
  const first = step.header.views[s.front]?.psnr;
  if (first) { keep(s.curve, first[frame], 240); drawCurve(); }
  if (frame === 0 && step.asked) measure(step.asked);
  showTaken(step.header.actions?.[frame]);
  if (step.next >= step.header.frames) {
    s.buffer.shift();
    s.last = { step, frame };
    if (s.once && step.asked) s.once = false;
  }
  keep(s.drawn, now, 60);
  s.due = s.speed === Infinity ? 0 : Math.max(s.due + period(), now);
  if (now - s.due > period()) s.due = now;
}

function measure(asked) {
  const now = performance.now();
  for (const at of asked.keys) {
    keep(s.totals, now - at);
    keep(s.waits, asked.sent - at);
    keep(s.rests, now - asked.sent);
  }
}

function noteOf(step, i, frame) {
  const view = step.header.views[i];
  if (!view) return "";
  if (view.over) return "over";
  return view.psnr ? `${view.psnr[frame].toFixed(1)} dB` : s.futures ? String(i + 1) : "";
}

function showClock(now) {
  const k = s.hello.frames, ticks = $("ticks");
  if (ticks.children.length !== k) ticks.replaceChildren(...Array.from({ length: k }, () => make("i")));
  const next = s.shown?.next ?? 0;
  [...ticks.children].forEach((tick, i) => tick.classList.toggle("on", i < next));
  const keys = s.pressed.length ? s.pressed : (s.asked?.keys ?? []);
  $("waiting").textContent = s.futures ? "several futures" : s.playing && keys.length ? `a key waits, ${Math.round(now - keys[0])} ms` : "";
  if (now - (s.numbered ?? 0) > 250) { s.numbered = now; showNumbers(now); }
}

function showNumbers(now) {
  const recent = s.drawn.filter((at) => now - at < 1000);
  $("fps").textContent = recent.length > 1 ? ((1000 * (recent.length - 1)) / (recent.at(-1) - recent[0])).toFixed(1) : "0";
  const ms = (value) => (value === null ? "-" : `${Math.round(value)}`);
  for (const [id, list] of [["key", s.totals], ["wait", s.waits], ["rest", s.rests]]) {
    $(`${id}50`).textContent = list.length ? `${ms(quantile(list, 0.5))} ms` : "-";
    $(`${id}95`).textContent = ms(quantile(list, 0.95));
  }
  const thought = s.shown?.header.ms ?? {}, decides = thought.player !== undefined;
  $("decides").hidden = !decides;
  if (decides) $("thought").textContent = `${Math.round(thought.player)} ms`;
  if (decides) $("imagined").textContent = thought.futures ? `${thought.futures} futures` : "";
  $("model").textContent = s.models.length ? `${quantile(s.models, 0.5).toFixed(1)} ms` : "-";
  $("psnr").textContent = s.curve.length ? `${s.curve.at(-1).toFixed(1)} dB` : "-";
}

// ---------------------------------------------------------------- pictures

function draw(canvas, step, row, column) {
  const [height, width] = step.header.size;
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  canvas.getContext("2d").putImageData(step.sheet, -column * width, -row * height, column * width, row * height, width, height);
}

function arrange(views) {
  const shown = views.map((view) => `${view.kind} ${view.name}`).join();
  const real = views.findIndex((view) => view.kind === "real");
  s.pair = real < 0 ? null : [Math.min(s.front, real - 1), real];
  if (shown === s.arranged) return;
  s.arranged = shown;
  s.views = views.map((view, i) => figure(view.kind, view.name, views.length, i));
  s.difference = s.pair ? figure("difference", "difference", 0, -1) : null;
  s.moved = null;
  $("views").replaceChildren(...[...s.views, ...(s.difference ? [s.difference] : [])].map((view) => view.figure));
  $("apart").hidden = !s.pair;
  columns();
}

// As many columns as leave the pictures large and the keys in sight.
function columns() {
  const count = $("views").children.length, narrow = innerWidth <= 900, [height, width] = s.hello.size;
  let many = 2;
  const tall = () => Math.ceil(count / many) * (($("views").clientWidth / many) * (height / width) + 34);
  while (many < count && tall() > 0.56 * innerHeight) many++;
  $("views").style.setProperty("--columns", narrow ? (count < 5 ? 2 : 3) : many);
  $("views").classList.toggle("lead", narrow && count === 3);
}

function figure(kind, name, count, i) {
  const canvas = make("canvas", { width: 64, height: 64 }), note = make("span");
  const element = make("figure", {}, canvas, make("figcaption", {}, make("b", { textContent: name.replaceAll("_", " ") }), note));
  element.dataset.kind = kind;
  canvas.setAttribute("aria-label", name);
  const choose = kind === "future" ? () => pick(i) : kind === "dream" && s.hello.runs.length > 1 ? () => setFront(i) : null;
  if (choose) {
    element.setAttribute("role", "button");
    element.tabIndex = 0;
    element.onclick = choose;
    element.onkeydown = (event) => { if (event.key === "Enter") choose(); };
    if (kind === "dream") element.setAttribute("aria-pressed", i === s.front);
  }
  return { canvas, note, figure: element };
}

function drawDifference(step, frame) {
  if (!s.difference || !s.pair) return;
  const [height, width] = step.header.size, across = step.sheet.width, data = step.sheet.data, image = new ImageData(width, height);
  const [a, b] = s.pair.map((row) => 4 * (row * height * across + frame * width));
  for (let y = 0, out = 0; y < height; y++) {
    for (let x = 0; x < width; x++, out += 4) {
      const at = 4 * (y * across + x);
      for (let c = 0; c < 3; c++) image.data[out + c] = BRIGHTER * Math.abs(data[a + at + c] - data[b + at + c]);
      image.data[out + 3] = 255;
    }
  }
  const { canvas } = s.difference;
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  canvas.getContext("2d").putImageData(image, 0, 0);
}

function drawCurve() {
  const canvas = $("curve"), context = canvas.getContext("2d"), { width, height } = canvas;
  context.clearRect(0, 0, width, height);
  context.beginPath();
  s.curve.slice(-width).forEach((value, i) => context.lineTo(i, height - 1 - (height - 2) * Math.min(1, Math.max(0, (value - 10) / 30))));
  context.strokeStyle = "#f0b35a";
  context.stroke();
}

// ---------------------------------------------------------------- keys

const primaries = () => s.hello.controls.filter((control) => control.keys.length);

function currentAction() {
  const names = [...s.held.keys()].map((code) => primaries().find((control) => control.keys.includes(code))?.name).filter(Boolean);
  for (let from = 0; from < names.length; from++) { // the newest keys count where not all go together
    const wanted = [...new Set(names.slice(from))].sort().join();
    const found = s.hello.controls.find((control) => [...control.of].sort().join() === wanted);
    if (found) return found;
  }
  return s.hello.controls[0];
}

function press(code, source, at) {
  const before = currentAction().name, sources = s.held.get(code) ?? new Set();
  s.held.delete(code);
  s.held.set(code, sources.add(source));
  changed(before, at);
}

function release(code, source, at) {
  if (!s.held.has(code)) return;
  const before = currentAction().name, sources = s.held.get(code);
  sources.delete(source);
  if (!sources.size) s.held.delete(code);
  changed(before, at);
}

function changed(before, at) {
  const name = currentAction().name;
  if (name !== before && s.playing && s.by === "person" && !s.futures) s.pressed.push(at);
  for (const button of $("keys").children) button.classList.toggle("held", [...s.held.keys()].some((code) => button.codes.includes(code)));
}

// The keys of what another player does.
function showTaken(name) {
  const of = s.by === "person" ? [] : (s.hello.controls.find((control) => control.name === name)?.of ?? []);
  for (const button of $("keys").children) button.classList.toggle("taken", of.includes(button.dataset.action));
}

function known(code) { return primaries().some((control) => control.keys.includes(code)); }

const typing = (event) => event.target.closest?.("textarea, select, input:not([type=range]):not([type=checkbox])");

addEventListener("keydown", (event) => {
  if (!s.hello || typing(event) || event.ctrlKey || event.metaKey || event.altKey) return;
  const digit = /^(Digit|Numpad)[1-9]$/.test(event.code) && s.futures ? () => pick(Number(event.code.slice(-1)) - 1) : null;
  if (known(event.code) && !digit) {
    event.preventDefault();
    if (!event.repeat) press(event.code, "keyboard", event.timeStamp);
    return;
  }
  const does = { KeyP: () => $("pause").click(), Period: () => $("single").click(), KeyR: () => $("restart").click(),
    KeyB: () => $("chance").click(), KeyN: () => $("each").click() }[event.code];
  if ((does ?? digit) && !event.repeat) { event.preventDefault(); (does ?? digit)(); }
});
addEventListener("keyup", (event) => s.hello && release(event.code, "keyboard", event.timeStamp));
addEventListener("blur", () => { if (s.hello) for (const code of [...s.held.keys()]) release(code, "keyboard", performance.now()); });

function showKeys() {
  const buttons = primaries().map((control) => {
    const caps = control.keys.map((code) => LABELS[code] ?? code.replace(/^(Key|Digit)/, "")).join(" ");
    const button = make("button", { codes: control.keys }, make("kbd", { textContent: caps }), make("span", { textContent: control.name.replaceAll("_", " ") }));
    button.dataset.action = control.name;
    const [row, column] = PLACES[control.keys[0]] ?? [];
    if (row) Object.assign(button.style, { gridRow: row, gridColumn: column });
    button.onpointerdown = (event) => { event.preventDefault(); button.setPointerCapture(event.pointerId); press(control.keys[0], "touch", event.timeStamp); };
    button.onpointerup = button.onpointercancel = (event) => release(control.keys[0], "touch", event.timeStamp);
    button.oncontextmenu = (event) => event.preventDefault();
    return button;
  });
  const low = !buttons.some((button) => button.style.gridRow.startsWith("1"));
  if (low) for (const button of buttons) if (button.style.gridRow) button.style.gridRow = "1";
  $("keys").replaceChildren(...buttons);
}

function readGamepad() {
  const pad = [...(navigator.getGamepads?.() ?? [])].find(Boolean);
  if (!pad) return;
  const on = (i) => Boolean(pad.buttons[i]?.pressed), [x = 0, y = 0] = pad.axes;
  const wanted = { ArrowLeft: on(14) || x < -0.4, ArrowRight: on(15) || x > 0.4, ArrowUp: on(12) || on(7) || y < -0.4, ArrowDown: on(13) || on(6) || y > 0.4, Space: on(0) };
  for (const [code, down] of Object.entries(wanted)) {
    const was = s.held.get(code)?.has("gamepad");
    if (down && !was && known(code)) press(code, "gamepad", performance.now());
    if (!down && was) release(code, "gamepad", performance.now());
  }
}

// ---------------------------------------------------------------- what a person chooses

function welcome(hello) {
  const first = !s.hello;
  Object.assign(s, { hello, delay: 500, asked: null, arranged: null, views: [] });
  $("lost").hidden = true;
  $("about").textContent = [hello.world, `${hello.fps} frames/s`, `${hello.frames} frames a latent step`, hello.device].join(" \u00b7 ");
  if (first) choices(hello);
  showKeys();
  if (!$("real").checked) send({ type: "real", on: false });
  begin();
  if (!first) retune();
  if ($("explorer").open) send({ type: "explore", on: true });
}

function choices(hello) {
  $("episode").replaceChildren(...hello.episodes.map((length, i) =>
    make("option", { value: i, textContent: `${i}${hello.test.includes(i) ? ", held out" : ""}` })));
  $("episode").value = hello.test[0] ?? 0;
  $("real").disabled = hello.real !== null;
  $("real").checked = hello.real === null;
  $("real").parentElement.title = hello.real ?? "";
  chooseEpisode();
  const size = (n) => (n >= 1e6 ? `${(n / 1e6).toFixed(n < 1e7 ? 1 : 0)}M` : `${Math.round(n / 1e3)}K`);
  $("runs").replaceChildren(...hello.runs.map((run) =>
    make("li", {}, make("b", { textContent: run.name }), make("span", { textContent: `${size(run.parameters)}${run.flops ? `, ${run.flops.toExponential(1)} FLOPs` : ""}` }))));
  $("worded").hidden = !hello.runs.every((run) => run.text);
  $("guided").hidden = !hello.runs.every((run) => run.guidance);
  group("speeds", SPEEDS, s.speed, (speed) => { s.speed = speed; s.due = 0; });
  group("players", [...PLAYERS, ...hello.agents.map((name, i) => [name, `agent ${i}`])], s.by, (by) => { s.pressed = []; send({ type: "drive", by }); });
  setPlayer("person");
  showTune();
}

function group(id, pairs, value, choose) {
  $(id).replaceChildren(...pairs.map(([text, own]) => {
    const button = make("button", { textContent: text });
    Object.assign(button.dataset, { value: own });
    button.setAttribute("role", "radio");
    button.setAttribute("aria-checked", own === value);
    button.onclick = () => { mark(id, own); choose(own); button.blur(); };
    return button;
  }));
}

function mark(id, value) {
  for (const button of $(id).children) button.setAttribute("aria-checked", button.dataset.value === String(value));
}

function setPlayer(by) {
  s.by = by;
  mark("players", by);
  for (const button of $("players").children) {
    if (button.dataset.value === "script") button.disabled = !$("real").checked || !s.hello.script;
    if (button.dataset.value === "planner") Object.assign(button, { disabled: s.hello.planner !== null, title: s.hello.planner ?? "" });
  }
}

function chooseEpisode() {
  const length = s.hello.episodes[$("episode").value];
  $("frame").max = length - 1;
  $("frame").value = Math.min(40, length - 1);
  $("frameout").textContent = $("frame").value;
}

function look() {
  $("frameout").textContent = $("frame").value;
  send({ type: "look", episode: Number($("episode").value), frame: Number($("frame").value) });
}

function begin() {
  s.start = { type: "start", episode: Number($("episode").value), frame: Number($("frame").value), seed: Math.max(0, Math.round(Number($("seed").value)) || 0) };
  travel(s.start);
  look();
}

function showTune() {
  const steps = Number($("steps").value);
  $("stepsout").textContent = steps || `${s.hello.runs[0].steps}, as evaluated`;
  $("temperatureout").textContent = Number($("temperature").value).toFixed(2);
  $("guidanceout").textContent = Number($("guidance").value).toFixed(1);
}

function retune() {
  showTune();
  send({ type: "tune", steps: Number($("steps").value) || null, temperature: Number($("temperature").value),
    guidance: $("guided").hidden ? 1 : Number($("guidance").value), prompt: $("worded").hidden ? "" : $("prompt").value });
}

function branch(id, message) {
  travel(message);
  $(id).setAttribute("aria-pressed", true);
}

function pick(row) {
  if (!s.futures || row >= s.views.length) return;
  travel({ type: "pick", row });
}

function setFront(run) {
  s.front = run;
  s.arranged = null;
  send({ type: "front", run });
  if ($("explorer").open) send({ type: "explore", on: true });
}

function setPlaying(playing) {
  s.playing = playing;
  s.pressed = [];
  $("pause").textContent = playing ? "Pause" : "Play";
}

$("pause").onclick = () => { setPlaying(!s.playing); $("pause").blur(); };
$("single").onclick = () => { setPlaying(false); s.once = true; $("single").blur(); };
$("restart").onclick = () => { if (s.start) travel(s.start); $("restart").blur(); };
$("chance").onclick = () => { branch("chance", { type: "branch", kind: "chance", count: 4 }); $("chance").blur(); };
$("each").onclick = () => { branch("each", { type: "branch", kind: "actions" }); $("each").blur(); };
$("begin").onclick = () => { begin(); $("begin").blur(); };
$("dice").onclick = () => {
  const { episodes, test } = s.hello, among = test.length ? test : episodes.map((_, i) => i);
  $("episode").value = among[Math.floor(Math.random() * among.length)];
  chooseEpisode();
  $("frame").value = Math.floor(Math.random() * $("frame").max);
  begin();
  $("dice").blur();
};
$("episode").onchange = () => { chooseEpisode(); look(); };
$("frame").oninput = look;
$("real").onchange = () => { send({ type: "real", on: $("real").checked }); setPlayer(s.by); begin(); };
for (const id of ["steps", "temperature", "guidance"]) { $(id).oninput = showTune; $(id).onchange = () => { retune(); $(id).blur(); }; }
$("prompt").onchange = retune;
$("save").onclick = () => { send({ type: "save" }); $("save").blur(); };

// ---------------------------------------------------------------- latents

function showSliders(directions) {
  s.sliders = directions.map((direction, i) => {
    const input = make("input", { type: "range", min: -4, max: 4, step: 0.1, value: 0 }), now = make("i", { className: "now" });
    const name = direction.best?.replaceAll("_", " "), score = direction.r2 === null ? "" : `r² ${direction.r2.toFixed(2)}`;
    const out = make("output", { textContent: direction.probed ? score : name ? `${name} ${score}` : "" });
    const label = make("label", {}, direction.probed ? name : `${i + 1}: ${Math.round(100 * direction.share)} %`, out, input, now);
    if (direction.probed) label.classList.add("probed");
    input.oninput = () => { setPlaying(false); slider.touched = true; move("frame"); };
    const slider = { input, now, touched: false };
    return slider;
  });
  $("sliders").replaceChildren(...s.sliders.map(({ input }) => input.parentElement));
}

function showCoordinates(coordinates) {
  if (!coordinates) return;
  s.sliders.forEach((slider, i) => {
    const value = Math.max(-4, Math.min(4, coordinates[i]));
    slider.now.style.left = `calc(${(100 * (value + 4)) / 8}% + ${8 - (16 * (value + 4)) / 8 - 1}px)`;
    if (!slider.touched) slider.input.value = value;
  });
}

function move(where) {
  const values = Object.fromEntries(s.sliders.map((slider, i) => [String(i), slider]).filter(([, slider]) => slider.touched)
    .map(([i, slider]) => [i, Number(slider.input.value)]));
  for (const id of ["cause", "level"]) $(id).disabled = !Object.keys(values).length;
  (where === "world" ? travel : send)({ type: "move", where, values });
}

function showMoved(step) {
  if (!s.moved) {
    s.moved = figure("moved", "moved", 0, -1);
    $("views").append(s.moved.figure);
    columns();
  }
  draw(s.moved.canvas, step, 0, 0);
}

function level() {
  s.sliders.forEach((slider) => { slider.touched = false; });
  for (const id of ["cause", "level"]) $(id).disabled = true;
  s.moved?.figure.remove();
  s.moved = null;
  columns();
  showCoordinates(s.shown?.header.coordinates);
}

$("explorer").ontoggle = () => send({ type: "explore", on: $("explorer").open });
$("cause").onclick = () => { move("world"); level(); setPlaying(true); };
$("level").onclick = level;

addEventListener("resize", () => s.hello && columns());
addEventListener("error", (event) => s.errors.push(event.message));
requestAnimationFrame(tick);
connect();

// For tests and benchmarks: what the page has measured.
window.videowm = {
  get state() {
    return { connected: s.socket?.readyState === WebSocket.OPEN, steps: s.steps, playing: s.playing, futures: s.futures, by: s.by,
      views: s.views.map((view) => view.figure.dataset.kind), at: s.shown?.header.at ?? 0, actions: s.shown?.header.actions ?? [],
      fps: Number($("fps").textContent), errors: s.errors, ms: s.shown?.header.ms ?? {}, sliders: s.sliders.length, probed: document.querySelectorAll(".probed").length };
  },
  get latencies() { return { totals: s.totals, waits: s.waits, rests: s.rests, models: s.models, trips: s.trips }; },
  forget() { for (const list of [s.totals, s.waits, s.rests, s.models, s.trips]) list.length = 0; },
  drop() { s.socket.close(); },
};
