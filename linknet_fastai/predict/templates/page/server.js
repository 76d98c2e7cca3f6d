// The engine of a page that `linknet-fastai serve` sends: files and frames go to that server, which keeps nothing.

import { asText, current, grab } from "./sources.js";

const QUALITY = 0.95; // of the frames of the camera, as JPEG

let limits; // of files: {bytes, text}

/** What the page says of the server's network. */
export async function start(info) {
  limits = info.limits;
  const size = info.size ? asText(info.size) : "each frame's own size";
  return {
    about: `by ${info.by} at ${size}. Pictures go to the machine that serves this page; nothing is kept there.`,
    ready: limits.text,
  };
}

/**
 * Send a file. The answer is lines of JSON, and after one with `parts`, numbers of bytes, those bytes.
 * @param about the query
 * @param onLine called with each line before that one
 */
async function send(content, about, signal, onLine) {
  const request = { method: "POST", body: content, signal };
  const answer = await fetch(`predict?${new URLSearchParams(about)}`, request).catch((error) => {
    throw signal?.aborted ? error : new Error("the server does not answer: it is busy, or has ended");
  });
  if (!answer.ok) throw new Error(await answer.text());
  const stream = answer.body.getReader();
  let line = {}, bytes = new Blob();
  for (let part; !(part = await stream.read()).done; ) {
    bytes = new Blob([bytes, part.value]);
    while (!line.parts) {
      const text = await bytes.text(); // ASCII, until the bytes begin
      const end = text.indexOf("\n");
      if (end < 0) break;
      line = JSON.parse(text.slice(0, end));
      bytes = bytes.slice(end + 1);
      if (line.error) throw new Error(line.error);
      if (!line.parts) onLine(line);
    }
  }
  let end = 0;
  const parts = line.parts?.map((count) => bytes.slice(end, (end += count)));
  if (!parts || bytes.size !== end) throw new Error("the server has ended");
  return { ...line, parts };
}

const asMask = async (part) => new Uint8Array(await part.arrayBuffer());

/**
 * A file as a source: a picture with its prediction, or the film that the server makes of a clip.
 * @param file the file
 * @param view opacity, and shown, the numbers of the classes that a film shows
 * @param signal aborted when the visitor wants another file
 * @param onFrame called with how many frames of a clip are done, and of how many
 */
export async function opened(file, view, signal, onFrame) {
  if (file.size > limits.bytes) throw new Error(`${file.name} is too large. ${limits.text}`);
  const about = { name: file.name, opacity: view.opacity, shown: view.shown };
  const { parts, ...answer } = await send(file, about, signal, ({ done, total }) => onFrame(done, total));
  const { name } = file;
  if (answer.frames) return { name, ...answer, film: parts[0].slice(0, parts[0].size, "video/mp4"), stop() {} };
  const [width, height] = answer.shown;
  const frame = await createImageBitmap(parts[0]);
  const predicted = { frame, mask: await asMask(parts[1]), width, height, milliseconds: answer.milliseconds };
  return { name, size: () => answer.size, predicted, stop() {} };
}

/**
 * Predict the current frame of the camera; a picture was predicted when it was opened.
 * @param source what is shown
 * @param seen width and height of what the network sees
 */
export async function predict(source, seen) {
  if (source.predicted) return source.predicted;
  const frame = current(source);
  // Not by toBlob, which a busy browser puts off.
  const [, encoded] = grab(frame, seen).toDataURL("image/jpeg", QUALITY).split(",");
  const content = Uint8Array.from(atob(encoded), (byte) => byte.charCodeAt(0));
  const { parts, shown, milliseconds } = await send(content, { name: source.name, mask: "only" });
  return { frame, mask: await asMask(parts[1]), width: shown[0], height: shown[1], milliseconds };
}
