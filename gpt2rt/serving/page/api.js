// Speaks with the server: requests, streams, errors, the key, and what it says of its own fields.

const ROOT = new URL("..", import.meta.url);  // this file is in `page/`, also behind a proxy's prefix
const KEY = "gpt2rt-key";

export class Refused extends Error {
  constructor(status, error) {
    super(error.message);
    this.status = status;
    this.code = error.code;
  }
}

export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: value => value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY),
};

async function ask(path, body, signal) {
  const headers = key.get() ? { Authorization: `Bearer ${key.get()}` } : {};
  if (body) headers["Content-Type"] = "application/json";
  const settings = { method: body ? "POST" : "GET", headers, signal, body: body && JSON.stringify(body) };
  let response;
  try {
    response = await fetch(new URL(path.slice(1), ROOT), settings);
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Refused(0, { message: "The server does not answer. Is it still running?" });
  }
  if (!response.ok) throw new Refused(response.status, await told(response));
  return response;
}

async function told(response) {
  const fallback = { message: `The server answered ${response.status}.` };
  return response.json().then(body => body.error ?? fallback, () => fallback);
}

/** The JSON that the server answers: a POST of `body`, or a GET without one. */
export async function call(path, body, signal) {
  return (await ask(path, body, signal)).json();
}

/** The events of a stream, parsed, until its `[DONE]`. */
export async function* stream(path, body, signal) {
  const response = await ask(path, { ...body, stream: true }, signal);
  let rest = "";
  for await (const text of pieces(response.body.pipeThrough(new TextDecoderStream()))) {
    const lines = (rest + text).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data:")) continue;
      const data = line.slice(5).trim();
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new Refused(response.status, event.error);
      yield event;
    }
  }
  throw new Refused(0, { message: "The stream broke off before its end." });
}

async function* pieces(readable) {  // Safari's streams are no async iterators
  const reader = readable.getReader();
  try {
    for (let next; !(next = await reader.read()).done;) yield next.value;
  } finally {
    reader.cancel().catch(() => {});  // an aborted one is cancelled already
  }
}

let described = null;

/** The server's OpenAPI description. */
export function description() {
  return described ??= call("/openapi.json").catch(error => { described = null; throw error; });
}

/** A schema, found by its name where it is only named. */
export function resolved(api, schema) {
  return schema.$ref ? resolved(api, schema.$ref.slice(2).split("/").reduce((at, step) => at[step], api)) : schema;
}

/** The fields of an endpoint's body: name -> { description, default, minimum, maximum, ... }. */
export async function fields(path) {
  const api = await description();
  const body = resolved(api, api.paths[path].post.requestBody.content["application/json"].schema);
  return Object.fromEntries(Object.entries(body.properties).map(([name, field]) => {
    const kind = (field.anyOf ?? []).map(choice => resolved(api, choice)).find(choice => choice.type !== "null");
    return [name, { ...kind, ...field }];
  }));
}
