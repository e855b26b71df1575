// Starts the page: what the browser can do, the model's files, then writing.

import { about, answerAfter, openModel } from "./api.js";
import { asked, chosen, threads } from "./device.js";
import { by, fault, number } from "./dom.js";
import { describeSettings } from "./settings.js";
import { startWriting } from "./write.js";

const RELOADED = "gpt2rt-reloaded";
const PATIENCE = 3000;  // ms
const ALONE = " The server sends no headers that allow threads, so the model runs on one.";
const SIMD = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11];

const say = text => { by("state").textContent = text; };

/** Starts the worker that keeps the page's files; resolves when it answers for this page, or does not in time. */
function offline() {
  const found = navigator.serviceWorker;
  if (!found) return undefined;
  const answers = new Promise(resolve => {
    if (found.controller) resolve();
    found.addEventListener("controllerchange", found.controller ? renew : resolve, { once: true });
    setTimeout(resolve, PATIENCE);
  });
  found.register(new URL("../sw.js", import.meta.url)).then(
    registration => registration?.update().catch(error => console.info(`No newer page: ${error.message}`)),
    error => console.warn(`This page will not open without a connection: ${error.message}`));
  return answers;
}

/** Opens the page that the server has in place of this one, unless a text was begun here. */
function renew() {
  if (by("paper").hidden && !by("prompt").value) location.reload();
}

/** Whether the page comes again, with the headers that threads need, which the service worker adds. */
function again() {
  if (!navigator.serviceWorker?.controller || sessionStorage.getItem(RELOADED)) return false;
  sessionStorage.setItem(RELOADED, "yes");
  location.reload();
  return true;
}

function progress(done, total) {
  by("progress").hidden = !total;
  by("state").ariaBusy = String(Boolean(total));  // screen readers say only where it ends
  if (!total) return say("Opening the model …");
  Object.assign(by("progress"), { value: done, max: total });
  say(`Fetching the model, once: ${number(done / 1e6, 1)} of ${number(total / 1e6, 1)} MB`);
}

async function start() {
  if (!WebAssembly.validate(Uint8Array.from(SIMD)))
    throw new Error("This browser's WebAssembly has no SIMD, which the model needs: please use a newer browser.");
  const kept = offline(), model = await about, best = await chosen(model);
  if (threads(model, best) > 1 && !crossOriginIsolated) {
    await kept;
    if (again()) return;
  }
  const { device, count } = await open(model, best), alone = count < threads(model, device);
  sessionStorage.removeItem(RELOADED);
  const where = device === "webgpu" ? "by WebGPU" : `on ${count} thread${count > 1 ? "s" : ""}`;
  say(`${model.name} is here, ${where}: nothing that you type leaves this machine.${alone ? ALONE : ""}`);
  Object.assign(document.body.dataset, { device, threads: count });
}

/** Opens the model; where nobody asked for the GPU and it fails, on the processor. */
async function open(model, device) {
  const count = crossOriginIsolated ? threads(model, device) : 1;
  try {
    await openModel(device, count, progress);
    return { device, count };
  } catch (error) {
    if (device === "wasm" || asked("device") || !model.devices.wasm) throw error;
    console.warn(`The GPU does not run the model: ${error.message}`);
    return open(model, "wasm");
  }
}

by("fault-close").addEventListener("click", () => fault(null));
startWriting();
describeSettings().catch(fault);
about.then(({ name }) => { by("model").textContent = name; }, () => {});  // `start` tells of it
const started = start();
answerAfter(started);
started.catch(error => { by("progress").hidden = true; say("The model is not here."); fault(error); });
