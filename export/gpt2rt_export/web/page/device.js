// What computes in this browser: its processor, by WebAssembly, or its GPU, by WebGPU.

const SMALL = 1 << 24;  // bytes of weights: a smaller model is faster on the processor
const MOST = 8;  // threads that a model gets by itself
const MOST_ASKED = 64;  // each is a worker with memory of its own
const NAMES = { wasm: "WebAssembly", webgpu: "WebGPU" };

/** What the address asks for by `?name=`. */
export const asked = name => new URLSearchParams(location.search).get(name);

/** The device for a model: the one that the address asks for, else the one that suits it here. */
export async function chosen(model) {
  const wish = asked("device"), able = Object.keys(model.devices);
  if (wish !== null && !Object.hasOwn(NAMES, wish)) throw new Error(`?device=${wish} is not known; choose ${Object.keys(NAMES).join(" or ")}.`);
  if (wish !== null && !able.includes(wish)) throw new Error(`${model.name} is not made for ${NAMES[wish]}; leave ?device= out.`);
  const only = wish ?? (able.length === 1 ? able[0] : null);
  if (only === "wasm") return only;
  const why = await lacksGPU(wish !== null);
  if (only && why) throw new Error(`${why}; ${wish ? "?device=webgpu asks for one" : `${model.name} needs one`}.`);
  return only ?? (heavy(model) && !why ? "webgpu" : "wasm");
}

/** How many threads suit the model on a device. Small ones are faster on one: threads wait for each other. */
export function threads(model, device) {
  const here = navigator.hardwareConcurrency || 1, physical = here <= 4 ? here : Math.ceil(here / 2);
  return wished() ?? (device === "wasm" && heavy(model) ? Math.min(MOST, physical) : 1);
}

/** The threads that the address asks for, or null. */
function wished() {
  const wish = asked("threads"), count = Number(wish);
  if (wish !== null && !(Number.isInteger(count) && count >= 1 && count <= MOST_ASKED))
    throw new Error(`?threads=${wish} is not a whole number from 1 to ${MOST_ASKED}.`);
  return wish === null ? null : count;
}

/** Why there is no GPU for a model here, or null; one that the processor plays counts only if `asked`. */
async function lacksGPU(asked) {
  const adapter = await adapterHere();
  if (inSoftware(adapter) && !asked) return "This browser has a GPU in software only, which ?device=webgpu takes";
  return adapter ? null : "This browser has no GPU (WebGPU)";
}

async function adapterHere() {
  try {
    return await navigator.gpu?.requestAdapter();
  } catch (error) {  // some browsers block a GPU so
    console.warn(`The GPU cannot be used: ${error.message}`);
    return null;
  }
}

// Chromium before 136 has it on the adapter, and before 127 no `info`.
const inSoftware = adapter => adapter?.info?.isFallbackAdapter ?? adapter?.isFallbackAdapter;

const heavy = ({ files }) => files["model/weights.bin"].bytes >= SMALL;
