// Keeps the files of this page, and adds the headers that a page needs for several threads. See isolation.js.
importScripts("build.js"); // BUILD: the id of this build, and its files with their hashes

const ISOLATED = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
  "Cross-Origin-Resource-Policy": "same-origin",
};
const PREFIX = `lucid-maskrcnn ${self.registration.scope} `; // caches are shared by all pages of a host

// A large file has a cache of its own, under its hash: a new build that has the same does not fetch it again. The page
// fetches it, with progress; the small ones are fetched here.
const isLarge = (name) => BUILD.files[name].bytes > 1e6;
const cacheOf = (name) => PREFIX + (isLarge(name) ? BUILD.files[name].hash : BUILD.id);
const small = Object.keys(BUILD.files).filter((name) => !isLarge(name));

async function keepSmall() {
  const cache = await caches.open(PREFIX + BUILD.id);
  await cache.addAll(small.map((name) => new Request(name, { cache: "reload" })));
  if (!self.registration.active) await self.skipWaiting(); // a new build waits until no page has files of the old one
}

async function forgetOld() {
  const wanted = new Set(Object.keys(BUILD.files).map(cacheOf));
  const old = (await caches.keys()).filter((key) => key.startsWith(PREFIX) && !wanted.has(key));
  await Promise.all(old.map((key) => caches.delete(key)));
  await self.clients.claim();
}

async function answer(name) {
  const cache = await caches.open(cacheOf(name));
  const kept = await cache.match(name);
  if (kept) return isolated(kept);
  const fetched = await fetch(name);
  if (fetched.ok) cache.put(name, fetched.clone()).catch(() => {}); // a full disk: it is fetched again
  return isolated(fetched);
}

function isolated(response) {
  const headers = new Headers(response.headers);
  for (const [name, value] of Object.entries(ISOLATED)) headers.set(name, value);
  return new Response(response.body, { status: response.status, statusText: response.statusText, headers });
}

self.addEventListener("install", (event) => event.waitUntil(keepSmall()));
self.addEventListener("activate", (event) => event.waitUntil(forgetOld()));
self.addEventListener("fetch", (event) => {
  const url = new URL(event.request.url), scope = new URL(self.registration.scope);
  if (event.request.method !== "GET" || !url.href.startsWith(scope.href)) return;
  const name = url.pathname.slice(scope.pathname.length) || "index.html";
  if (name in BUILD.files) event.respondWith(answer(name));
});
