// How long a run takes: nothing is heard of the model meanwhile, so the time is told by that of the run before.

const KEY = "lucid-maskrcnn seconds per million pixels";
const FIRST = 3; // of one thread, where nothing is known

export class RunClock {
  constructor(show) {
    this.show = show;
    this.timer = null;
  }

  /** Begin with an image of so many pixels, as the network sees them. */
  start(pixels, threads) {
    this.stop();
    this.millions = pixels / 1e6;
    this.key = `${KEY}, ${threads} threads`;
    const expected = this.millions * (this.read() ?? FIRST / threads), started = performance.now();
    const tick = () => {
      const seconds = (performance.now() - started) / 1000;
      const about = seconds < expected ? ` of about ${Math.max(1, Math.round(expected))}` : "";
      this.show(`Looking for objects: ${Math.floor(seconds)}${about} s …`, seconds < expected ? seconds / expected : undefined);
    };
    tick();
    this.timer = setInterval(tick, 250);
  }

  /** End, and remember how long it took. */
  stop(seconds) {
    clearInterval(this.timer);
    if (seconds === undefined || !this.millions) return;
    try { localStorage.setItem(this.key, seconds / this.millions); } catch { /* private windows keep nothing */ }
  }

  read() {
    try {
      return Number(localStorage.getItem(this.key)) || null;
    } catch {
      return null;
    }
  }
}
