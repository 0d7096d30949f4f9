// The service worker: it keeps the page's files, so that it works without a network, and sends the headers that browsers ask
// for before they lend a page several threads, which a plain file host does not send.

const PATIENCE = 5000; // milliseconds for it to start; without it the page works, with one thread
const TRIED = "lucid-maskrcnn isolation tried";

/** Return once the page may go on: with a service worker if there can be one. May load the page anew, once. */
export async function isolate() {
  if (!navigator.serviceWorker) return;
  const controlled = new Promise((resolve) => {
    if (navigator.serviceWorker.controller) resolve(true);
    navigator.serviceWorker.addEventListener("controllerchange", () => resolve(true), { once: true });
    setTimeout(() => resolve(false), PATIENCE);
  });
  try {
    // Not the browser's own cache: build.js is what tells a new build.
    await navigator.serviceWorker.register("service_worker.js", { updateViaCache: "none" });
    if (!(await controlled) || crossOriginIsolated || sessionStorage.getItem(TRIED)) return;
    sessionStorage.setItem(TRIED, "yes"); // a browser that does not isolate would load it for ever
  } catch {
    return; // private windows and embedded pages may have neither
  }
  // A browser may keep this page, which waits, and show it again when its place in the history is wanted.
  addEventListener("pageshow", (event) => event.persisted && location.reload());
  location.reload();
  await new Promise(() => {});
}
