// The model's files: fetched once, checked, and kept by the browser (Cache Storage), each under its sha256.

const CACHE = "gpt2rt-files";

/**
 * The files of `records` (name -> { bytes, sha256 }) below `root` without those `left` out, as a Map of
 * Uint8Arrays. `progress(done, total)` is called as bytes arrive from the network.
 */
export async function load(records, left, root, progress) {
  const cache = await kept(), found = new Map(), wanted = [];
  for (const [name, record] of Object.entries(records)) {
    if (left.includes(name)) continue;
    const hit = await cache?.match(keyOf(name, record, root)), bytes = hit && new Uint8Array(await hit.arrayBuffer());
    if (bytes?.length === record.bytes) found.set(name, bytes);
    else wanted.push([name, record]);
  }
  const total = wanted.reduce((sum, [, record]) => sum + record.bytes, 0);
  let done = 0;
  for (const [name, record] of wanted) {
    const bytes = await whole(name, record, root, count => progress(done += count, total));
    found.set(name, bytes);
    await keep(cache, keyOf(name, record, root), bytes);
  }
  await forget(cache, records, root);
  return found;
}

const keyOf = (name, record, root) => new URL(`${name}?sha256=${record.sha256}`, root).href;

async function kept() {  // there is none where the page came over plain http from another machine
  try {
    return await globalThis.caches?.open(CACHE);
  } catch {
    return undefined;
  }
}

async function keep(cache, key, bytes) {
  try {
    await cache?.put(key, new Response(bytes));
  } catch (error) {
    console.warn(`${key} is not kept: ${error.message}`);  // the disk is full; the page works all the same
  }
}

async function forget(cache, records, root) {  // files of an earlier model of this page
  const keys = new Set(Object.entries(records).map(([name, record]) => keyOf(name, record, root)));
  for (const { url } of await cache?.keys() ?? []) if (url.startsWith(root) && !keys.has(url)) await cache.delete(url);
}

async function whole(name, record, root, arrived) {
  let bytes = await fetched(name, record, root, arrived, "default");
  if (!await right(bytes, record)) bytes = await fetched(name, record, root, () => {}, "reload");  // an old copy on the way
  if (!await right(bytes, record)) throw new Error(`${name} is not the file that this page was made with; load it onto the server again.`);
  return bytes;
}

async function fetched(name, record, root, arrived, cache) {
  const url = new URL(name, root);
  const response = await fetch(url, { cache }).catch(() => null);
  if (!response?.ok) throw new Error(`${name} cannot be fetched (${response ? response.status : "no connection"}).`);
  const bytes = new Uint8Array(record.bytes), reader = response.body.getReader();
  const broken = () => { throw new Error(`${name} came in part only; load the page again.`); };
  for (let at = 0, next; !(next = await reader.read().catch(broken)).done; at += next.value.length) {
    if (at + next.value.length > bytes.length) return null;
    bytes.set(next.value, at);
    arrived(next.value.length);
  }
  return bytes;
}

async function right(bytes, record) {
  if (!bytes || !globalThis.crypto?.subtle) return Boolean(bytes);  // not to be had over plain http
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(digest, byte => byte.toString(16).padStart(2, "0")).join("") === record.sha256;
}
