// Runs the network, in a thread of its own, so that the page stays quick. It loads only files that are beside it.

import { resized } from "./resize.js";

let ort, session;

/** The bytes of a file beside this one; one that ends in .gz is unpacked, unless the server did so. */
async function load(file, onBytes) {
  const answer = await fetch(new URL(file, import.meta.url), { cache: "no-cache" });
  if (!answer.ok) throw new Error(`${file} cannot be loaded (${answer.status}): put the whole folder on the server`);
  const parts = [];
  const reader = answer.body.getReader();
  for (let part; !(part = await reader.read()).done; ) {
    parts.push(part.value);
    onBytes(part.value.length);
  }
  const content = new Blob(parts);
  const [first, second] = new Uint8Array(await content.slice(0, 2).arrayBuffer());
  if (first !== 0x1f || second !== 0x8b) return new Uint8Array(await content.arrayBuffer());
  const unpacked = content.stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(unpacked).arrayBuffer());
}

/** Whether a network in floats can run on the graphics card. */
async function hasGraphicsCard() {
  return Boolean(await navigator.gpu?.requestAdapter().catch(() => null));
}

/** How many threads; several need memory that they share, which browsers allow where the server isolates the page. */
function threads() {
  const cores = navigator.hardwareConcurrency || 1;
  return self.crossOriginIsolated ? Math.min(cores, Math.max(2, cores >> 1), 8) : 1;
}

async function open({ model, runtimes, bytes, size }) {
  const usable = runtimes.webgpu && (await hasGraphicsCard()) ? ["webgpu", "wasm"] : ["wasm"];
  const total = bytes[model] + bytes[runtimes[usable[0]].binary];
  let loaded = 0;
  const onBytes = (count) => postMessage({ kind: "loading", share: Math.min((loaded += count) / total, 1) });
  const network = load(model, onBytes);
  for (const name of usable) {
    try {
      await start(name, runtimes[name], network, onBytes);
      // The first prediction takes longer, and shows whether the graphics card can do it.
      await predict({ pixels: new Uint8ClampedArray(4 * size[0] * size[1]), from: size, seen: size, wanted: size });
      const used = ort.env.wasm.numThreads;
      return name === "webgpu" ? "WebGPU" : `WebAssembly, ${used} thread${used > 1 ? "s" : ""}`;
    } catch (error) {
      if (name === "wasm") throw error;
    }
  }
}

async function start(name, { api, glue, binary }, network, onBytes) {
  const [bytes, wasmBinary] = await Promise.all([network, load(binary, onBytes)]);
  ort = await import(new URL(api, import.meta.url));
  Object.assign(ort.env.wasm, {
    wasmBinary,
    wasmPaths: { mjs: new URL(glue, import.meta.url).href },
    numThreads: threads(),
  });
  session = await ort.InferenceSession.create(bytes, { executionProviders: [name], logSeverityLevel: 3 });
}

/**
 * Predict a frame.
 * @param pixels RGBA
 * @param from its width and height
 * @param seen width and height of what the network sees
 * @param wanted width and height of the mask
 */
async function predict({ pixels, from, seen, wanted }) {
  const image = new ort.Tensor("uint8", resized(pixels, from, seen), [1, seen[1], seen[0], 3]);
  const size = new ort.Tensor("int64", BigInt64Array.of(BigInt(wanted[1]), BigInt(wanted[0])), [2]);
  const started = performance.now();
  const mask = (await session.run({ image, size }, ["mask"])).mask.data;
  return { mask, milliseconds: performance.now() - started };
}

onmessage = async ({ data }) => {
  try {
    if (data.kind === "open") {
      postMessage({ kind: "open", engine: await open(data.info) });
    } else {
      const result = await predict(data);
      postMessage({ kind: "predicted", ...result }, [result.mask.buffer]);
    }
  } catch (error) {
    postMessage({ kind: "error", message: error.message ?? String(error) });
  }
};
