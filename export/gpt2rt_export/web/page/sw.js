// Keeps the page's own files, so that it opens without a connection, and adds the headers that threads need.

const VERSION = "/* version */";
const FILES = [/* files */];
const PREFIX = `gpt2rt-page ${registration.scope} `;

addEventListener("install", event => {
  skipWaiting();
  event.waitUntil(caches.open(PREFIX + VERSION).then(
    cache => cache.addAll(FILES.map(name => new Request(name, { cache: "reload" })))));
});

addEventListener("activate", event => event.waitUntil((async () => {
  for (const name of await caches.keys())
    if (name.startsWith(PREFIX) && name !== PREFIX + VERSION) await caches.delete(name);
  await clients.claim();
})()));

addEventListener("fetch", event => {
  if (event.request.method === "GET" && event.request.url.startsWith(registration.scope))
    event.respondWith(answer(event.request));
});

async function answer(request) {
  const url = request.url.replace(/[?#].*/, "").replace(/\/$/, "/index.html");
  const cache = await caches.open(PREFIX + VERSION);
  return isolated(await cache.match(url) ?? await fetch(request));
}

/** The response with the headers by which a page is isolated from others, and so may share memory. */
function isolated(response) {
  if (response.type === "opaqueredirect" || !response.status) return response;
  const headers = new Headers(response.headers);
  headers.set("Cross-Origin-Opener-Policy", "same-origin");
  headers.set("Cross-Origin-Embedder-Policy", "require-corp");
  headers.set("Cross-Origin-Resource-Policy", "same-origin");
  const body = [204, 205, 304].includes(response.status) ? null : response.body;
  return new Response(body, { status: response.status, statusText: response.statusText, headers });
}
