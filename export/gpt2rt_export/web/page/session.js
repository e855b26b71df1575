// A model in onnxruntime-web, by its C calls: tensors stay in its memory or the GPU's, and nothing is copied.
//
// The package's own JavaScript copies every input and output, which for keys and values would take longer than
// the step. The calls and their arguments are those of its `wasm-core-impl.ts`, at the version of `runtime.py`.

const TYPES = { float32: 1, int32: 6 };  // of ONNX
const CPU = 1, GPU = 4;  // where a tensor lies
const ALL = 99;  // of the levels of graph optimisation
const ERRORS = 3;  // the least that is logged
const LATER = 200;  // ms

export class Session {
  /** Open a graph with its weights on a device; `factory` and `binary` are the runtime's module and its code. */
  static async open(factory, binary, graph, weights, device, threads) {
    const wasm = await factory({ numThreads: threads, wasmBinary: binary, locateFile: name => name });
    if (wasm._OrtInit(threads, ERRORS)) throw new Error(lastError(wasm));
    wasm.mountExternalData("weights.bin", weights);
    const options = wasm._OrtCreateSessionOptions(ALL, true, true, 0, false, 0, 0, ERRORS, 0, 0);
    const gpu = device === "webgpu" ? await useGPU(wasm, options) : null;
    const copy = wasm._malloc(graph.length);
    wasm.HEAPU8.set(graph, copy);
    const handle = await wasm._OrtCreateSession(copy, graph.length, options);
    if (!handle) throw new Error(lastError(wasm));
    wasm.webgpuOnCreateSession?.(handle);
    wasm._free(copy);
    wasm._OrtReleaseSessionOptions(options);
    wasm.unmountExternalData();
    return new Session(wasm, handle, gpu?.device);
  }

  constructor(wasm, handle, gpu) {
    Object.assign(this, { wasm, handle, gpu });
  }

  /** A tensor float32 of this shape for what stays from call to call, on the device. */
  kept(shape) {
    if (!this.gpu) return this.tensor("float32", shape);
    const size = shape.reduce((product, size) => product * size, 4), { COPY_DST, COPY_SRC, STORAGE } = GPUBufferUsage;
    const buffer = this.gpu.createBuffer({ size, usage: COPY_DST | COPY_SRC | STORAGE });
    return this.#tensor("float32", shape, this.wasm.webgpuRegisterBuffer(buffer, this.handle), size, GPU);
  }

  /** A tensor of this shape, to be read and written here, whose values are anything. */
  tensor(type, shape) {
    const bytes = shape.reduce((product, size) => product * size, 4), at = this.wasm._malloc(bytes);
    if (!at) throw new Error("The browser gives this page no more memory.");
    return this.#tensor(type, shape, at, bytes, CPU);
  }

  #tensor(type, shape, at, bytes, place) {
    const { wasm } = this, before = wasm.stackSave(), sizes = wasm.stackAlloc(4 * shape.length);
    shape.forEach((size, index) => wasm.setValue(sizes + 4 * index, size, "i32"));
    const handle = wasm._OrtCreateTensor(TYPES[type], at, bytes, sizes, shape.length, place);
    wasm.stackRestore(before);
    if (!handle) throw new Error(lastError(wasm));
    return new Tensor(wasm, handle, at, type, bytes / 4);
  }

  /** Whether the GPU is gone, as after a crash of its driver; it is told a little later than what fails by it. */
  lostGPU() {
    return this.gpu && Promise.race([this.gpu.lost, new Promise(resolve => setTimeout(resolve, LATER))]);
  }

  /** A call of the graph with these tensors, by their names. */
  call(inputs, outputs) {
    return new Call(this, Object.entries(inputs), Object.entries(outputs));
  }
}

class Tensor {
  constructor(wasm, handle, at, type, length) {
    Object.assign(this, { wasm, handle, at, type, length });
  }

  /** The values, to be read or written now: the memory may move when it grows. */
  get values() {
    const kind = this.type === "int32" ? Int32Array : Float32Array;
    return new kind(this.wasm.HEAPU8.buffer, this.at, this.length);
  }

  free() {
    this.wasm._OrtReleaseTensor(this.handle);
    this.wasm._free(this.at);
  }
}

class Call {
  constructor(session, inputs, outputs) {
    this.session = session;
    this.owned = [];
    this.arguments = [inputs, outputs].map(side => [
      this.#row(side.map(([name]) => this.#text(name))), this.#row(side.map(([, tensor]) => tensor.handle)), side.length]);
  }

  #bytes(bytes) {
    const at = this.session.wasm._malloc(bytes.length);
    this.session.wasm.HEAPU8.set(bytes, at);
    this.owned.push(at);
    return at;
  }

  #text(text) {
    return this.#bytes(new TextEncoder().encode(text + "\0"));
  }

  #row(numbers) {
    return this.#bytes(new Uint8Array(Uint32Array.from(numbers).buffer));
  }

  async run() {
    const { wasm, handle } = this.session, [[names, values, count], [outNames, outValues, outCount]] = this.arguments;
    try {
      if (await wasm._OrtRun(handle, names, values, count, outNames, outCount, outValues, 0)) throw new Error(lastError(wasm));
    } catch (error) {
      throw await this.session.lostGPU() ? new Error("The browser took the GPU away; load the page again.") : error;
    }
  }

  free() {
    for (const at of this.owned) this.session.wasm._free(at);
  }
}

/** Has the nodes of a session run on the GPU; `device` of what is returned is there once the session is. */
async function useGPU(wasm, options) {
  const gpu = { device: null }, name = new TextEncoder().encode("WebGPU\0"), at = wasm._malloc(name.length);
  wasm.asyncInit();  // its calls are promises from now on
  wasm.webgpuInit(device => { gpu.device = device; });
  wasm.webgpuRegisterDevice();
  wasm.HEAPU8.set(name, at);
  if (await wasm._OrtAppendExecutionProvider(options, at, 0, 0, 0)) throw new Error(lastError(wasm));
  wasm._free(at);
  return gpu;
}

function lastError(wasm) {
  const before = wasm.stackSave(), at = wasm.stackAlloc(8);
  wasm._OrtGetLastError(at, at + 4);
  const text = wasm.getValue(at + 4, "*");
  const told = text ? wasm.UTF8ToString(text) : "no reason is told";
  wasm.stackRestore(before);
  return `onnxruntime-web: ${told}`;
}
