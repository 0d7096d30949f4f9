// The worker that finds objects, as the page sees it: one image at a time, and what is not wanted any more is ended.

/**
 * Start the worker; handlers has a function for each of its events, which are listed in detector_worker.js.
 *
 * A run of the model cannot be interrupted: it is ended with its worker, and a new one loads the model again.
 */
export class Detector {
  constructor(handlers) {
    this.handlers = handlers;
    this.waiting = null; // what is to be found once the model is there
    this.start();
  }

  start() {
    this.state = "loading";
    const worker = new Worker("detector_worker.js", { type: "module" });
    this.worker = worker;
    // What a worker said before it was ended may arrive after that.
    worker.onmessage = ({ data }) => { if (worker === this.worker) this.hear(data); };
    worker.onerror = (event) => {
      event.preventDefault();
      if (worker !== this.worker) return;
      this.hear({ event: "failed", sentence: `The model cannot be loaded: ${event.message || "a file of this page is missing"}.` });
    };
    this.worker.postMessage({ call: "load" });
  }

  hear(data) {
    if (data.event === "failed" && this.state === "loading") this.state = "broken";
    else if (["loaded", "found", "failed"].includes(data.event)) this.state = "ready";
    this.handlers[data.event](data);
    if (data.fatal && this.state === "ready") this.restart();
    if (data.event === "loaded" && this.waiting) this.detect(this.waiting);
  }

  /** Find the objects of an image: turn (a number that comes back), file, name and intensity. */
  detect(wanted) {
    if (this.state === "running") this.restart();
    if (this.state === "broken") this.start();
    this.waiting = this.state === "loading" ? wanted : null;
    if (this.waiting) return;
    this.state = "running";
    this.worker.postMessage({ call: "detect", ...wanted });
  }

  /** End what is running, or what waits. */
  cancel() {
    this.waiting = null;
    if (this.state === "running") this.restart();
  }

  restart() {
    this.worker.terminate();
    this.start();
  }
}
