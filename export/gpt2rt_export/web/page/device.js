// What computes in this browser: its processor, by WebAssembly, or its GPU, by WebGPU.

const SMALL = 1 << 24;  // bytes of weights: a smaller model is faster on the processor
const MOST = 8;  // threads
const NAMES = { wasm: "WebAssembly", webgpu: "WebGPU" };

/** The device for a model: the one that the address asks for (`?device=`), else the one that suits it here. */
export async function chosen(model, asked = asks("device")) {
  const lacking = { wasm: () => null, webgpu: lacksWebGPU };
  if (asked !== null && !Object.hasOwn(lacking, asked)) throw new Error(`?device=${asked} is not known; choose wasm or webgpu.`);
  const able = Object.keys(model.devices), wanted = asked ?? (able.length > 1 ? null : able[0]);
  if (wanted === null) return heavy(model) && await lacksWebGPU(true) === null ? "webgpu" : "wasm";
  if (!able.includes(wanted)) throw new Error(`${model.name} is not made for ${NAMES[wanted]}; leave ?device= out.`);
  const why = await lacking[wanted]();
  if (why) throw new Error(`${why}, which ${asked ? "?device=webgpu asks for" : `${model.name} needs`}.`);
  return wanted;
}

/** How many threads suit the model here. Small ones are faster on one: threads wait for each other. */
export function threads(model) {
  const here = navigator.hardwareConcurrency || 1, physical = here <= 4 ? here : Math.ceil(here / 2);
  return Number(asks("threads")) || (heavy(model) ? Math.min(MOST, physical) : 1);
}

/** Why there is no WebGPU here; null: there is. `fast`: one that the processor plays does not count. */
async function lacksWebGPU(fast = false) {
  if (!("Suspending" in WebAssembly)) return "This browser's WebAssembly cannot wait for a GPU (JSPI)";
  const adapter = await navigator.gpu?.requestAdapter();
  return adapter && !(fast && adapter.info.isFallbackAdapter) ? null : "This browser has no WebGPU adapter";
}

const heavy = ({ files }) => files["model/weights.bin"].bytes >= SMALL;
const asks = name => new URLSearchParams(location.search).get(name);
