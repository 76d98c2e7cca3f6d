// The page: what is opened is predicted by the engine that model.json names, browser.js or server.js, and drawn here.

import { drawOverlay } from "./overlay.js";
import { asText, camera, newFrame, reduced, scaled } from "./sources.js";

const SIZES = [1, 0.75, 0.5]; // of the sides that the network was trained at
const VIEW = "Opacity and classes are those of when it was opened.";
const find = (id) => document.getElementById(id);
const picture = find("picture"), film = find("film"), opacity = find("opacity");

let engine; // what predicts: browser.js or server.js
let info; // model.json
let legend; // of each class: {color, input, share, bar}
let source; // what is predicted: {name, size, frame, video, isCamera, stop}, see sources.js
let wish = new AbortController(); // aborted when something else is asked for
let last; // what is shown: {name, frame, mask, width, height}, or {name, film}, which a server made of a clip
let times = []; // when the latest frames were predicted

function say(text, isError = false) {
  find("status").textContent = text;
  find("status").classList.toggle("error", isError);
}

const complain = (error) => say(`error: ${error.message ?? error}`, true);

function showProgress(share) {
  find("progress").hidden = false;
  find("progress").value = share;
}

/** What the network sees of a frame: all of its size, or, if it pads frames, what has the frame's aspect ratio. */
function seen(frame) {
  if (!info.size) return reduced(frame);
  const box = scaled(info.size, SIZES[find("size").value] ?? 1); // a server has its own size
  if (info.fit === "squish") return box;
  const by = Math.min(box[0] / frame[0], box[1] / frame[1]);
  return frame.map((side) => Math.max(Math.round(side * by), info.smallest_side));
}

// The picture

function draw() {
  if (last?.mask) drawOverlay(picture, last, legend, opacity.value / 100);
}

function sharesOf(mask) {
  const counts = new Uint32Array(256);
  for (const channel of mask) counts[channel]++;
  return legend.map((_, channel) => counts[channel] / mask.length);
}

function showShares(shares) {
  for (const [channel, { share, bar }] of legend.entries()) {
    share.textContent = `${(100 * shares[channel]).toFixed(1)}%`;
    bar.style.transform = `scaleX(${shares[channel]})`;
  }
}

function showFigures(milliseconds, fps) {
  find("milliseconds").textContent = milliseconds < 10 ? milliseconds.toFixed(1) : milliseconds.toFixed(0);
  find("fps").textContent = fps ? fps.toFixed(1) : "-";
}

/** The frames a second of what moves, after one more. */
function countFrame() {
  times = [...times.slice(-29), performance.now()];
  return (1000 * (times.length - 1)) / (times.at(-1) - times[0]);
}

/** Show the canvas or the film. */
function showStage() {
  find("stage").classList.add("filled");
  find("empty").hidden = true;
  picture.hidden = Boolean(last.film);
  film.hidden = !last.film;
  find("save").hidden = false;
}

/** Predict and show the current frame of a source. */
async function predict(from) {
  const predicted = await engine.predict(from, seen(from.size()));
  if (from !== source) return;
  last = { name: from.name, ...predicted };
  draw();
  showShares(sharesOf(last.mask));
  showFigures(last.milliseconds, from.video && countFrame());
  showStage();
  if (!from.video) say(`${from.name}, ${asText(from.size())}: ${last.milliseconds.toFixed(1)} ms in the network`);
}

/** Show the film that a server made of a clip. */
function showFilm(made) {
  last = made;
  URL.revokeObjectURL(film.src);
  film.src = URL.createObjectURL(made.film);
  showShares(made.shares);
  showFigures(made.milliseconds, made.fps);
  showStage();
  const [milliseconds, fps] = [made.milliseconds.toFixed(1), made.fps.toFixed(1)];
  const figures = `${milliseconds} ms a frame in the network, ${fps} frames a second in all`;
  say(`${made.name}, ${made.frames} frames: ${figures}. ${VIEW} ${made.note}`);
}

// Sources

/** Stop what was opened last; what is shown stays. */
function leave() {
  wish.abort();
  wish = new AbortController();
  source?.stop();
  source = undefined;
  film.pause();
  find("progress").hidden = true;
  showControls();
}

/** Show the picture, clip or camera that `start` gives, in place of what is shown. */
async function show(start) {
  leave();
  const { signal } = wish;
  try {
    const next = await start(signal);
    if (signal.aborted) {
      next.stop();
      return;
    }
    find("progress").hidden = true;
    if (next.film) {
      showFilm(next);
      return;
    }
    source = next;
    times = [];
    if (next.video) follow(next);
    showControls();
    say(`${next.name}, ${asText(next.size())}`);
    let following; // waited for from before the prediction on: while that runs, the clip may be moved to another time
    do {
      following = next.video && newFrame(next.video);
      await predict(next);
    } while (next === source && next.video && (await following));
  } catch (error) {
    if (signal.aborted) return;
    leave();
    complain(error);
  }
}

/** Show a file. */
function open(file) {
  const shown = legend.flatMap(({ input }, channel) => (input.checked ? [channel] : []));
  const onFrame = (done, total) => {
    showProgress(total ? done / total : 0);
    say(`${file.name}: ${done} of ${total || "its"} frames predicted`);
  };
  say(`${file.name} is being predicted`);
  return show((signal) => engine.opened(file, { opacity: opacity.value / 100, shown }, signal, onFrame));
}

/** Have the controls follow a clip or the camera. */
function follow(next) {
  const { video } = next;
  if (next.isCamera)
    video.srcObject.getVideoTracks()[0].onended = () => {
      if (next !== source) return;
      leave();
      complain("the camera has ended");
    };
  video.ontimeupdate = () => {
    if (document.activeElement !== find("seek") || !video.paused) find("seek").value = video.currentTime / video.duration;
  };
  video.onplay = video.onpause = video.ondurationchange = () => {
    times = [];
    if (source?.video === video) showControls();
  };
}

function showControls() {
  const { video, isCamera } = source ?? {};
  find("pause").hidden = !video;
  find("pause").textContent = video?.paused ? "Go on" : "Pause";
  find("time").hidden = !video || isCamera || !Number.isFinite(video.duration); // what a browser recorded has none
  find("camera").textContent = isCamera ? "Stop the camera" : "Use the camera";
}

// Controls

function addClass({ name, color }) {
  const [item, label, patch, text, input, share, bar] = ["li", "label", "i", "span", "input", "b", "u"].map((tag) =>
    document.createElement(tag),
  );
  Object.assign(input, { type: "checkbox", checked: true });
  patch.style.background = bar.style.background = `rgb(${color})`;
  text.textContent = name;
  label.append(input, patch, text, share, bar);
  item.append(label);
  find("classes").append(item);
  return { color, input, share, bar };
}

function addClasses() {
  legend = info.classes.map(addClass);
  const isAnyShown = () => legend.some(({ input }) => input.checked);
  const change = () => {
    find("all").textContent = isAnyShown() ? "hide all" : "show all";
    draw();
  };
  find("classes").onchange = change;
  find("all").onclick = () => {
    const checked = !isAnyShown();
    for (const { input } of legend) input.checked = checked;
    change();
  };
}

function addSizes() {
  find("sees").hidden = false;
  SIZES.forEach((by, index) => {
    const note = by === 1 ? " (as trained)" : by === 0.5 ? " (fastest)" : "";
    find("size").append(new Option(asText(scaled(info.size, by)) + note, index));
  });
  // A video that plays has a new frame soon.
  find("size").onchange = () => source && (!source.video || source.video.paused) && predict(source).catch(complain);
}

/** Save what is shown, the film or the picture. */
function save() {
  const give = (name, kind) => (content) => {
    const href = URL.createObjectURL(content);
    const download = `${name.replace(/\.\w+$/, "")}-overlay.${kind}`;
    Object.assign(document.createElement("a"), { href, download }).click();
    setTimeout(() => URL.revokeObjectURL(href), 10_000);
  };
  if (last.film) give(last.name, "mp4")(last.film);
  else picture.toBlob(give(last.name, "png"));
}

function addControls() {
  opacity.oninput = draw;
  film.onerror = () => complain("this browser cannot play the film; save it to see it elsewhere");
  find("file").onchange = ({ target }) => {
    const [file] = target.files;
    target.value = ""; // so that the same file can be opened again
    if (file) open(file);
  };
  find("camera").onclick = () => {
    if (source?.isCamera) leave();
    else show(camera);
  };
  find("pause").onclick = () => (source.video.paused ? source.video.play() : source.video.pause());
  find("seek").oninput = ({ target }) => {
    source.video.currentTime = target.value * source.video.duration;
  };
  find("save").onclick = save;
  const over = (event) => {
    event.preventDefault();
    find("stage").classList.toggle("over", event.type === "dragover");
    const [file] = event.type === "drop" ? event.dataTransfer.files : [];
    if (file && !find("file").disabled) open(file);
  };
  for (const kind of ["dragover", "dragleave", "drop"]) document.addEventListener(kind, over);
}

async function begin() {
  const answer = await fetch("model.json", { cache: "no-cache" });
  if (!answer.ok) throw new Error(`model.json cannot be loaded (${answer.status}): put the whole folder on the server`);
  info = await answer.json();
  engine = await import(`./${info.engine}.js`);
  document.title = find("title").textContent = `LinkNet on ${info.recipe}`;
  addClasses();
  addControls();
  if (info.engine === "browser") addSizes(); // a server has its own
  say("Loading the network");
  const { about, ready } = await engine.start(info, showProgress);
  find("progress").hidden = true;
  const hasCamera = Boolean(navigator.mediaDevices);
  const needs = hasCamera ? "" : " The camera needs https or localhost.";
  find("about").textContent = `${info.classes.length} classes, ${about}${needs}`;
  say(ready);
  find("file").disabled = false;
  find("camera").disabled = !hasCamera;
}

begin().catch(complain);
