// The engine of a page that predicts by itself, in worker.js. It sends nothing away.

import { current, grab, movie } from "./sources.js";

let worker;
let waiting; // for the worker's answer: {resolve, reject}
let turn = Promise.resolve(); // the worker takes one question at a time

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

/** Load the network, and give what the page says of it; `onShare` is called with the share that is loaded. */
export async function start(info, onShare) {
  worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
  worker.onmessage = ({ data }) => {
    if (data.kind === "loading") onShare(data.share);
    else if (data.kind === "error") waiting.reject(new Error(data.message));
    else waiting.resolve(data);
  };
  worker.onerror = (event) => waiting.reject(new Error(event.message || "this browser is too old for the page"));
  const { engine } = await ask({ kind: "open", info });
  return { about: `in ${info.precision} on ${engine}. Pictures stay on this device.`, ready: "Ready" };
}

/** A file as a source: a picture, turned upright, or a clip. */
export async function opened(file) {
  const about = { imageOrientation: "from-image", colorSpaceConversion: "none", premultiplyAlpha: "none" };
  const image = await createImageBitmap(file, about).catch(() => null);
  if (image) {
    const size = [image.width, image.height];
    return { name: file.name, frame: image, size: () => size, stop: () => image.close() };
  }
  const address = URL.createObjectURL(file);
  try {
    return await movie(file.name, { src: address }, false, () => URL.revokeObjectURL(address));
  } catch ({ name }) {
    const isRefused = name === "NotAllowedError"; // as by iPhones in low power mode
    const why = isRefused ? "does not let clips play now (low power mode, or its settings)" : "reads it neither as a picture nor as a clip";
    throw new Error(`${file.name}: this browser ${why}`);
  }
}

/**
 * Predict the current frame of a source. A picture is reduced as linknet-fastai does it, in the worker, and has its
 * mask at its own size; a moving frame is reduced by the browser, which is faster, and has its mask at the network's.
 * @param source what is shown
 * @param seen width and height of what the network sees
 */
export async function predict(source, seen) {
  const frame = current(source);
  const input = source.video ? grab(frame, seen) : frame;
  const [width, height] = [input.width, input.height];
  const { data } = input.getContext("2d").getImageData(0, 0, width, height);
  const question = { kind: "predict", pixels: data, from: [width, height], seen, wanted: [width, height] };
  return { frame, width, height, ...(await ask(question, [data.buffer])) };
}
