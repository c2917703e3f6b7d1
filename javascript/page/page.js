/** The page that `adaptive-depth export --to web` writes: an image or the camera, at the depth that meets a deadline. */

import { Governor, openSession, prepare, profiled, read } from "./adaptive-depth/index.js";
import * as ort from "./onnxruntime-web/ort.wasm.bundle.min.mjs";

const MODEL = "model.onnx";
const SHOWN = 120; // images in the chart
const LARGEST = 480; // pixels of the displayed image's longer side

/** @type {<T extends HTMLElement>(id: string) => T} */
const by = (id) => /** @type {any} */ (document.getElementById(id));

/** The running session and its history; tests read it. @type {any} */
const state = { session: null, table: null, governor: null, image: null, video: null, targetMs: 0, history: [], runs: {} };
globalThis.adaptiveDepth = state;

start().catch((error) => say(`This page cannot run: ${error.message}`, true));

async function start() {
  ort.env.wasm.wasmPaths = { wasm: new URL("./onnxruntime-web/ort-wasm-simd-threaded.wasm", import.meta.url).href };
  ort.env.wasm.numThreads = globalThis.crossOriginIsolated ? navigator.hardwareConcurrency : 1;
  say("Loading the network …");
  state.session = await openSession(new URL(MODEL, import.meta.url), {
    ort,
    executionProviders: ["wasm"],
    onProgress: (loaded, total) => progress(loaded / total),
  });
  const { artifact } = state.session;
  if (!artifact.preprocessing) throw new Error("its file does not know how images are preprocessed: export it with data=");
  say("Measuring every depth on this device …");
  state.table = await profiled(state.session, artifact.trade_offs ?? unknown(artifact.skips), {
    onProgress: progress,
    clock: () => performance.now() / 1000,
  });
  setUp(artifact);
  say(`${artifact.skips.length} depths are ready. Drop an image, or use the camera.`);
  by("progress").hidden = true;
  by("app").hidden = false;
  state.ready = true;
  for (;;) {
    if (state.image || state.video) await pass();
    await new Promise((done) => setTimeout(done, state.image || state.video ? 0 : 50)); // so that the page stays responsive
  }
}

/** A table of depths of unknown quality: the more stages run, the better. @param {string[]} skips */
function unknown(skips) {
  const kept = (/** @type {string} */ skip) => [...skip].filter((letter) => letter === "F").length;
  const rows = skips.map((skip) => ({ skip, accuracy: kept(skip), macs: 1, parameters: 1 }));
  return { rows, quality: { name: "stages that run", unit: "", higher_is_better: true } };
}

// -- a pass -----------------------------------------------------------------------------------------------------------

async function pass() {
  const image = state.video ? frame(state.video) : state.image;
  const { session, governor } = state;
  const x = prepare(image, session.artifact.preprocessing);
  const skip = governor.choose();
  const began = performance.now();
  let output;
  try {
    output = await session.run(x, { skip });
  } catch (error) {
    say(`${error}`, true);
    await new Promise((done) => setTimeout(done, 1000));
    return;
  }
  const latency = performance.now() - began;
  if (governor !== state.governor) return; // the deadline was changed while it ran
  governor.observe(skip, latency);
  state.runs[skip] = (state.runs[skip] ?? 0) + 1;
  state.history = [...state.history, { skip, latency, late: latency > state.targetMs }].slice(-SHOWN);
  show(skip, latency, read(output, session.artifact));
}

/** @param {HTMLVideoElement} video */
function frame(video) {
  return drawn(video, video.videoWidth, video.videoHeight, true);
}

/** The pixels of an image, which is displayed smaller. @param {any} source */
function drawn(source, width, height, live = false) {
  const canvas = (state.canvas ??= document.createElement("canvas"));
  [canvas.width, canvas.height] = [width, height];
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(source, 0, 0);
  const pixels = context.getImageData(0, 0, width, height);
  const view = by("view");
  const scale = Math.min(1, LARGEST / Math.max(width, height));
  const [shownWidth, shownHeight] = [Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale))];
  if (!live || view.width !== shownWidth) [view.width, view.height] = [shownWidth, shownHeight];
  view.getContext("2d").drawImage(canvas, 0, 0, shownWidth, shownHeight);
  return pixels;
}

// -- display ----------------------------------------------------------------------------------------------------------

function say(text, wrong = false) {
  by("status").textContent = text;
  by("status").classList.toggle("wrong", wrong);
}

function progress(share) {
  by("progress").value = share;
}

function show(skip, latency, predictions) {
  const lines = predictions.flatMap(({ output, classes, numbers, unit }) => [
    ...classes.map(({ name, score }) => [output ? `${output}: ${name}` : name, `${(100 * score).toFixed(1)} %`, score]),
    ...(numbers.length ? [[output, `${numbers.map((each) => each.toPrecision(4)).join(", ")} ${unit}`, 0]] : []),
  ]);
  by("classes").replaceChildren(...lines.map(([name, value, share]) => {
    const line = document.createElement("li");
    const spans = [name, value].map((text) => Object.assign(document.createElement("span"), { textContent: text }));
    line.append(...spans);
    line.style.setProperty("--share", `${100 * share}%`);
    return line;
  }));
  const met = state.history.filter(({ late }) => !late).length / state.history.length;
  by("depth").textContent = skip;
  by("latency").textContent = ms(latency);
  by("met").textContent = `${(100 * met).toFixed(0)} % of ${state.history.length}`;
  const row = state.table.rows.find((each) => each.skip === skip);
  by("quality").textContent = quality(row);
  for (const line of by("depths").rows) {
    line.classList.toggle("now", line.dataset.skip === skip);
    line.lastElementChild.textContent = state.runs[line.dataset.skip] ?? 0;
  }
  chart();
}

const ms = (value) => `${value < 10 ? value.toFixed(1) : value.toFixed(0)} ms`;

function quality(row) {
  const { name, unit } = state.table.quality ?? { name: "top-1", unit: "%" };
  return `${Number(row.accuracy.toPrecision(4))} ${unit || (name === "stages that run" ? "stages" : "")}`.trim();
}

function chart() {
  const canvas = by("chart");
  [canvas.width, canvas.height] = [canvas.clientWidth * devicePixelRatio, canvas.clientHeight * devicePixelRatio];
  const context = canvas.getContext("2d");
  const style = getComputedStyle(document.documentElement);
  const highest = 1.15 * Math.max(state.targetMs, ...state.history.map(({ latency }) => latency));
  const y = (latency) => canvas.height * (1 - latency / highest);
  const step = canvas.width / SHOWN;
  state.history.forEach(({ latency, late }, place) => {
    context.fillStyle = style.getPropertyValue(late ? "--late" : "--mark");
    context.fillRect(place * step, y(latency), Math.max(1, step - 1), canvas.height - y(latency));
  });
  context.strokeStyle = context.fillStyle = getComputedStyle(document.body).color;
  context.setLineDash([6, 4]);
  context.beginPath();
  context.moveTo(0, y(state.targetMs));
  context.lineTo(canvas.width, y(state.targetMs));
  context.stroke();
  context.font = `${12 * devicePixelRatio}px system-ui`;
  context.fillText(`deadline ${ms(state.targetMs)}`, 4, y(state.targetMs) - 4);
}

// -- controls ---------------------------------------------------------------------------------------------------------

function setUp(artifact) {
  const latencies = state.table.rows.map((row) => row.latency_ms);
  const [fastest, slowest] = [Math.min(...latencies), Math.max(...latencies)];
  // A logarithmic scale: from half the fastest depth's latency to four times the slowest's.
  const slider = by("deadline");
  Object.assign(slider, { min: Math.log(fastest / 2), max: Math.log(4 * slowest), value: Math.log(1.5 * slowest) });
  slider.addEventListener("input", () => aim(Math.exp(slider.value)));
  aim(1.5 * slowest);
  const named = (state.table.quality ?? { name: "top-1" }).name;
  by("quality-name").textContent = by("table-quality").textContent = named;
  by("depths").replaceChildren(...state.table.rows.map((row) => {
    const line = document.createElement("tr");
    line.dataset.skip = row.skip;
    const cells = [row.skip, quality(row), ms(row.latency_ms), "0"];
    line.append(...cells.map((text) => Object.assign(document.createElement("td"), { textContent: text })));
    return line;
  }));
  document.title = `${artifact.skips.length} depths, one network`;

  by("file").addEventListener("change", (event) => take(event.target.files[0]));
  const drop = by("drop");
  for (const name of ["dragover", "dragleave", "drop"]) {
    drop.addEventListener(name, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", name === "dragover");
      if (name === "drop") take(event.dataTransfer.files[0]);
    });
  }
  drop.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === " ") by("file").click();
  });
  by("camera").addEventListener("click", camera);
  by("load").addEventListener("click", load);
}

/** Sets the deadline. @param {number} targetMs */
function aim(targetMs) {
  state.targetMs = targetMs;
  state.governor = new Governor(state.table, { targetMs });
  state.history = [];
  by("deadline-ms").textContent = ms(targetMs);
}

/** @param {File | undefined} file */
async function take(file) {
  if (!file) return;
  try {
    const bitmap = await createImageBitmap(file);
    stopCamera();
    state.image = drawn(bitmap, bitmap.width, bitmap.height);
    say(`${file.name}, again and again, at the depth that meets the deadline.`);
  } catch {
    say(`${file.name} cannot be read as an image: choose another file.`, true);
  }
}

async function camera() {
  if (state.video) {
    stopCamera();
    return;
  }
  try {
    const stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    const video = Object.assign(document.createElement("video"), { srcObject: stream, muted: true, playsInline: true });
    await video.play();
    state.video = video;
    by("camera").textContent = "Stop the camera";
    say("The camera, at the depth that meets the deadline.");
  } catch (error) {
    say(`The camera cannot be used (${error?.message ?? "no permission, or no https"}): choose an image.`, true);
  }
}

function stopCamera() {
  state.video?.srcObject.getTracks().forEach((track) => track.stop());
  state.video = null;
  by("camera").textContent = "Use the camera";
}

/** Starts or stops busy workers, two for each processor. */
function load() {
  const pressed = !state.load;
  if (pressed) {
    const busy = URL.createObjectURL(new Blob(["for (let x = 0.5; ; ) x = Math.sin(x) + 0.5;"], { type: "text/javascript" }));
    state.load = Array.from({ length: 2 * (navigator.hardwareConcurrency || 2) }, () => new Worker(busy));
    URL.revokeObjectURL(busy);
  } else {
    state.load.forEach((worker) => worker.terminate());
    state.load = null;
  }
  by("load").setAttribute("aria-pressed", String(pressed));
  by("load").textContent = pressed ? "Stop the load" : "Load the device";
}
