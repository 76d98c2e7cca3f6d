// A frame under the colors of its classes.

/**
 * Draw a frame under the colors of its classes, which are twice as opaque along borders, as in `predict`.
 * @param picture the canvas, which gets the size of the frame
 * @param predicted frame, a canvas; mask, the class of each pixel; width and height of the mask
 * @param legend of each class: color, and input, the checkbox that shows it
 * @param opacity 0 to 1
 */
export function drawOverlay(picture, { frame, mask, width, height }, legend, opacity) {
  const strength = Math.round(255 * opacity);
  const inside = new Uint32Array(256), border = new Uint32Array(256); // RGBA as the bytes of a number
  for (const [channel, { color, input }] of legend.entries()) {
    if (!input.checked) continue;
    const [red, green, blue] = color;
    const pixel = (alpha) => ((alpha << 24) | (blue << 16) | (green << 8) | red) >>> 0;
    inside[channel] = pixel(strength);
    border[channel] = pixel(Math.min(2 * strength, 255));
  }
  const colors = new ImageData(width, height);
  const pixels = new Uint32Array(colors.data.buffer);
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0; x < width; x++, at++) {
      const channel = mask[at];
      const isBorder =
        (x > 0 && mask[at - 1] !== channel) ||
        (x + 1 < width && mask[at + 1] !== channel) ||
        (y > 0 && mask[at - width] !== channel) ||
        (y + 1 < height && mask[at + width] !== channel);
      pixels[at] = (isBorder ? border : inside)[channel];
    }
  }
  const overlay = Object.assign(document.createElement("canvas"), { width, height });
  overlay.getContext("2d").putImageData(colors, 0, 0);
  if (picture.width !== frame.width || picture.height !== frame.height) {
    Object.assign(picture, { width: frame.width, height: frame.height });
  }
  const pen = picture.getContext("2d", { alpha: false });
  pen.drawImage(frame, 0, 0);
  pen.drawImage(overlay, 0, 0, frame.width, frame.height);
}
