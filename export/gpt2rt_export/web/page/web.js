// Starts the page: what the browser can do, the model's files, then writing.

import { about, openModel } from "./api.js";
import { by, fault, number } from "./dom.js";
import { describeSettings } from "./settings.js";
import { startWriting } from "./write.js";

const RELOADED = "gpt2rt-reloaded";
const SIMD = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11];

const say = text => { by("state").textContent = text; };

/** The worker that keeps the page's files; resolves when it answers for this page, or never will. */
async function offline() {
  if (!navigator.serviceWorker) return;
  try {
    await navigator.serviceWorker.register(new URL("../sw.js", import.meta.url));
    await navigator.serviceWorker.ready;
    if (!navigator.serviceWorker.controller) await new Promise(resolve => {
      navigator.serviceWorker.addEventListener("controllerchange", resolve, { once: true });
      setTimeout(resolve, 2000);
    });
  } catch (error) {
    console.warn(`This page will not open without a connection: ${error.message}`);
  }
}

/** Whether the page comes again, with the headers that threads need, which the service worker adds. */
function again() {
  if (crossOriginIsolated || !navigator.serviceWorker?.controller || sessionStorage.getItem(RELOADED)) return false;
  sessionStorage.setItem(RELOADED, "yes");
  location.reload();
  return true;
}

function threads() {  // half of many processors are the other halves of cores
  const asked = Number(new URLSearchParams(location.search).get("threads"));
  const here = navigator.hardwareConcurrency || 1;
  return crossOriginIsolated ? asked || Math.min(8, here <= 4 ? here : Math.ceil(here / 2)) : 1;
}

function progress(done, total) {
  by("progress").hidden = !total;
  if (!total) return say("Opening the model …");
  Object.assign(by("progress"), { value: done, max: total });
  say(`Fetching the model, once: ${number(done / 1e6, 1)} of ${number(total / 1e6, 1)} MB`);
}

async function start() {
  if (!WebAssembly.validate(Uint8Array.from(SIMD)))
    throw new Error("This browser's WebAssembly has no SIMD, which the model needs: please use a newer browser.");
  const kept = offline();
  if (!crossOriginIsolated) await kept;
  if (again()) return;
  const count = threads();
  await openModel(count, progress);
  sessionStorage.removeItem(RELOADED);
  const alone = crossOriginIsolated ? "" : " The server sends no headers that allow threads, so the model runs on one.";
  say(`${(await about).name} is here, on ${count} thread${count > 1 ? "s" : ""}: nothing that you type leaves this machine.${alone}`);
  document.body.dataset.threads = count;
}

by("fault-close").addEventListener("click", () => fault(null));
startWriting();
describeSettings().catch(fault);
about.then(({ name }) => { by("model").textContent = name; });
start().catch(error => { by("progress").hidden = true; say("The model is not here."); fault(error); });
