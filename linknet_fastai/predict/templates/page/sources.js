// Where frames come from. A source is {name, size, frame, stop}: size a function, frame what can be drawn, stop its end;
// a clip or the camera also has video, and isCamera.

const MOST = 1600; // pixels of the longer side on the page; larger frames are reduced first

/** A size by a factor, each side at least 1. */
export const scaled = (size, by) => size.map((side) => Math.max(Math.round(side * by), 1));
export const asText = ([width, height]) => `${width}x${height}`;

/** The size that a frame has on the page. */
export const reduced = (size) => scaled(size, Math.min(MOST / Math.max(...size), 1));

/** A canvas with a picture, or with the current frame of a video, at a size. */
export function grab(from, [width, height]) {
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const pen = canvas.getContext("2d", { alpha: false });
  pen.imageSmoothingQuality = "high";
  pen.drawImage(from, 0, 0, width, height);
  return canvas;
}

/** The current frame of a source, as it is on the page. */
export const current = ({ frame, size }) => grab(frame, reduced(size()));

/** Wait for the next frame of a video: while it plays, or when it is moved to another time. */
export function newFrame(video) {
  return new Promise((resolve) => {
    const done = () => resolve(true);
    if (video.requestVideoFrameCallback) video.requestVideoFrameCallback(done);
    else if (video.paused) for (const kind of ["seeked", "play"]) video.addEventListener(kind, done, { once: true });
    else requestAnimationFrame(done);
  });
}

/** A video that plays, as a source; `from` is {src} or {srcObject}. */
export async function movie(name, from, isCamera, release) {
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
      video.onloadedmetadata = resolve; // an iPhone loads the pictures when it is to play
      Object.assign(video, from);
      document.body.append(video);
      if (from.src) video.load();
    });
    if (!video.videoWidth) throw new Error("no pictures in it");
    await video.play();
  } catch (error) {
    stop();
    throw error;
  }
  return { name, frame: video, size: () => [video.videoWidth, video.videoHeight], video, isCamera, stop };
}

export async function camera() {
  const wanted = { facingMode: "environment", width: { ideal: 1280 }, height: { ideal: 720 } };
  const stream = await navigator.mediaDevices.getUserMedia({ video: wanted }).catch((error) => {
    throw new Error(`no camera: ${error.message}`);
  });
  return movie("camera", { srcObject: stream }, true, () => stream.getTracks().forEach((track) => track.stop()));
}
