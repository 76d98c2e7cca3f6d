// The page: pictures, clips and the camera to worker.js, and what comes back on the canvas. It sends nothing away.

import { drawOverlay } from "./overlay.js";

const MOST = 1600; // pixels of the longer side on the page; larger frames are reduced first
const SIZES = [1, 0.75, 0.5]; // of the sides that the network was trained at
const find = (id) => document.getElementById(id);
const picture = find("picture"), opacity = find("opacity");

let info; // what the export says about the model
let legend; // of each class: {color, input, share, bar}
let source; // the picture, clip or camera that is shown: {name, frame, size, video, isCamera, stop}
let wishes = 0; // how many were asked for
let last; // the last frame that was predicted: {frame, mask, width, height}
let times = []; // when the latest frames were predicted

let worker;
let waiting; // for the worker's answer: {resolve, reject}
let turn = Promise.resolve(); // the worker takes one question at a time

function startWorker() {
  worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
  worker.onmessage = ({ data }) => {
    if (data.kind === "loading") find("progress").value = data.share;
    else if (data.kind === "error") waiting.reject(new Error(data.message));
    else waiting.resolve(data);
  };
  worker.onerror = (event) => waiting.reject(new Error(event.message || "this browser is too old for the page"));
}

function ask(question, transferred = []) {
  const answer = turn.then(
    () =>
      new Promise((resolve, reject) => {
        waiting = { resolve, reject };
        worker.postMessage(question, transferred);
      }),
  );
  turn = answer.catch(() => {});
  return answer;
}

function say(text, isError = false) {
  find("status").textContent = text;
  find("status").classList.toggle("error", isError);
}

const complain = (error) => say(`error: ${error.message ?? error}`, true);
const scaled = ([width, height], by) => [width, height].map((side) => Math.max(Math.round(side * by), 1));
const asText = ([width, height]) => `${width}x${height}`;

/** What the network sees of a frame: all of its size, or, if it pads frames, what has the frame's aspect ratio. */
function seen(frame) {
  const box = scaled(info.size, SIZES[find("size").value]);
  if (info.fit === "squish") return box;
  const by = Math.min(box[0] / frame[0], box[1] / frame[1]);
  return frame.map((side) => Math.max(Math.round(side * by), info.smallest_side));
}

// The picture

/** A canvas with the current frame of a picture or a video. */
function grab(from, [width, height]) {
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const pen = canvas.getContext("2d", { alpha: false });
  pen.imageSmoothingQuality = "high";
  pen.drawImage(from, 0, 0, width, height);
  return canvas;
}

function draw() {
  if (last) drawOverlay(picture, last, legend, opacity.value / 100);
}

function showShares(mask) {
  const counts = new Uint32Array(256);
  for (const channel of mask) counts[channel]++;
  for (const [channel, { share, bar }] of legend.entries()) {
    const part = counts[channel] / mask.length;
    share.textContent = `${(100 * part).toFixed(1)}%`;
    bar.style.transform = `scaleX(${part})`;
  }
}

function showFigures(milliseconds, isMoving) {
  times = isMoving ? [...times.slice(-29), performance.now()] : [];
  const seconds = (times.at(-1) - times[0]) / 1000;
  find("milliseconds").textContent = milliseconds < 10 ? milliseconds.toFixed(1) : milliseconds.toFixed(0);
  find("fps").textContent = times.length > 1 ? ((times.length - 1) / seconds).toFixed(1) : "-";
}

/**
 * Predict the current frame of a source. A picture is reduced as linknet-fastai does it, in the worker, and has its mask
 * at its own size; a moving frame is reduced by the browser, which is faster, and has its mask at the network's size.
 */
async function predict(from) {
  const { video } = from;
  const frame = grab(from.frame, scaled(from.size(), Math.min(MOST / Math.max(...from.size()), 1)));
  const input = video ? grab(frame, seen(from.size())) : frame;
  const size = [input.width, input.height];
  const { data } = input.getContext("2d").getImageData(0, 0, ...size);
  const question = { kind: "predict", pixels: data, from: size, seen: seen(from.size()), wanted: size };
  const { mask, milliseconds } = await ask(question, [data.buffer]);
  if (from !== source) return;
  last = { frame, mask, width: size[0], height: size[1] };
  draw();
  showShares(mask);
  showFigures(milliseconds, Boolean(video));
  find("stage").classList.add("filled");
  find("empty").hidden = true;
  picture.hidden = find("save").hidden = false;
  if (!video) say(`${from.name}, ${asText(from.size())}: ${milliseconds.toFixed(1)} ms in the network`);
}

// Sources

/** Stop what is shown, and show the picture, clip or camera that `start` gives. */
async function show(start) {
  const wish = ++wishes;
  source?.stop();
  source = undefined;
  showControls();
  try {
    const next = await start();
    if (wish !== wishes) {
      next.stop();
      return;
    }
    source = next;
    times = [];
    showControls();
    say(`${next.name}, ${asText(next.size())}`);
    do await predict(next);
    while (next === source && next.video && (await newFrame(next.video)));
  } catch (error) {
    if (wish === wishes) complain(error);
  }
}

function showControls() {
  const { video, isCamera } = source ?? {};
  find("pause").hidden = !video;
  find("pause").textContent = video?.paused ? "Go on" : "Pause";
  find("time").hidden = !video || isCamera;
  find("camera").textContent = isCamera ? "Stop the camera" : "Use the camera";
}

/** Wait for the next frame of a video: while it plays, or when it is moved to another time. */
function newFrame(video) {
  return new Promise((resolve) => {
    const done = () => resolve(true);
    if (video.requestVideoFrameCallback) video.requestVideoFrameCallback(done);
    else if (video.paused) video.addEventListener("seeked", done, { once: true });
    else requestAnimationFrame(done);
  });
}

/** A video that plays, as a source; `from` is {src} or {srcObject}. */
async function movie(name, from, isCamera, release) {
  const video = Object.assign(document.createElement("video"), { muted: true, playsInline: true, loop: true });
  const stop = () => {
    video.remove();
    video.srcObject = null;
    video.removeAttribute("src");
    video.load();
    release();
  };
  try {
    await new Promise((resolve, reject) => {
      video.onerror = reject;
      video.onloadeddata = resolve;
      Object.assign(video, from);
      document.body.append(video);
    });
    if (!video.videoWidth) throw new Error("no pictures in it");
    await video.play();
  } catch (error) {
    stop();
    throw error;
  }
  video.ontimeupdate = () => {
    if (document.activeElement !== find("seek") || !video.paused) find("seek").value = video.currentTime / video.duration;
  };
  video.onplay = video.onpause = () => {
    times = [];
    if (source?.video === video) showControls();
  };
  return { name, frame: video, size: () => [video.videoWidth, video.videoHeight], video, isCamera, stop };
}

/** A file as a source: a picture, turned upright, or a clip. */
async function opened(file) {
  const about = { imageOrientation: "from-image", colorSpaceConversion: "none", premultiplyAlpha: "none" };
  const image = await createImageBitmap(file, about).catch(() => null);
  if (image) {
    const size = [image.width, image.height];
    return { name: file.name, frame: image, size: () => size, stop: () => image.close() };
  }
  const address = URL.createObjectURL(file);
  try {
    return await movie(file.name, { src: address }, false, () => URL.revokeObjectURL(address));
  } catch {
    throw new Error(`${file.name}: this browser reads it neither as a picture nor as a clip`);
  }
}

async function camera() {
  const wanted = { facingMode: "environment", width: { ideal: 1280 }, height: { ideal: 720 } };
  const stream = await navigator.mediaDevices.getUserMedia({ video: wanted }).catch((error) => {
    throw new Error(`no camera: ${error.message}`);
  });
  return movie("camera", { srcObject: stream }, true, () => stream.getTracks().forEach((track) => track.stop()));
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

function addControls() {
  SIZES.forEach((by, index) => {
    const note = by === 1 ? " (as trained)" : by === 0.5 ? " (fastest)" : "";
    find("size").append(new Option(asText(scaled(info.size, by)) + note, index));
  });
  // A video that plays has a new frame soon.
  find("size").onchange = () => source && (!source.video || source.video.paused) && predict(source).catch(complain);
  opacity.oninput = draw;
  find("file").onchange = ({ target }) => {
    const [file] = target.files;
    target.value = ""; // so that the same file can be opened again
    if (file) show(() => opened(file));
  };
  find("camera").onclick = () => {
    if (!source?.isCamera) return show(camera);
    source.stop();
    source = undefined;
    return showControls();
  };
  find("pause").onclick = () => (source.video.paused ? source.video.play() : source.video.pause());
  find("seek").oninput = ({ target }) => {
    source.video.currentTime = target.value * source.video.duration;
  };
  find("save").onclick = () =>
    picture.toBlob((content) => {
      const name = `${(source?.name ?? "camera").replace(/\.\w+$/, "")}-overlay.png`;
      const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(content), download: name });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
    });
  const over = (event) => {
    event.preventDefault();
    find("stage").classList.toggle("over", event.type === "dragover");
    const [file] = event.type === "drop" ? event.dataTransfer.files : [];
    if (file && !find("file").disabled) show(() => opened(file));
  };
  for (const kind of ["dragover", "dragleave", "drop"]) document.addEventListener(kind, over);
}

async function begin() {
  const answer = await fetch("model.json", { cache: "no-cache" });
  if (!answer.ok) throw new Error(`model.json cannot be loaded (${answer.status}): put the whole folder on the server`);
  info = await answer.json();
  document.title = find("title").textContent = `LinkNet on ${info.recipe}`;
  addClasses();
  addControls();
  say("Loading the network");
  startWorker();
  const { engine } = await ask({ kind: "open", info });
  find("progress").hidden = true;
  const hasCamera = Boolean(navigator.mediaDevices);
  const about = [`${info.classes.length} classes, in ${info.precision} on ${engine}.`, "Pictures stay on this device."];
  find("about").textContent = [...about, hasCamera ? "" : "The camera needs https or localhost."].join(" ");
  say("Ready");
  find("file").disabled = false;
  find("camera").disabled = !hasCamera;
}

begin().catch(complain);
