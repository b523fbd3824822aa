// One picture on a canvas: 16-bit grey through a window to the screen, fitted, zoomed and moved.
"use strict";
var Turing = Turing || {};

(function () {
  const LEVELS = 65536;
  const MOST = 32; // screen pixels a picture pixel may cover

  /** Grey value -> opaque RGBA word (little-endian, as every browser's machine is), linear from `lo` to `hi`. */
  function fillTable(table, lo, hi, invert) {
    const grey = (value) => (0xff000000 | (value * 0x010101)) >>> 0;
    const first = Math.max(0, Math.min(LEVELS, Math.ceil(lo)));
    const last = Math.max(first, Math.min(LEVELS, Math.floor(hi) + 1));
    table.fill(grey(invert ? 255 : 0), 0, first);
    table.fill(grey(invert ? 0 : 255), last);
    const slope = 255 / Math.max(1, hi - lo);
    for (let value = first; value < last; value++) {
      const shown = Math.min(255, Math.max(0, Math.round((value - lo) * slope)));
      table[value] = grey(invert ? 255 - shown : shown);
    }
  }

  const shared = { table: new Uint32Array(LEVELS), of: "" }; // linked pictures share one window, hence one table

  function tableFor(lo, hi, invert) {
    const wanted = `${lo} ${hi} ${invert}`;
    if (shared.of !== wanted) fillTable(shared.table, lo, hi, invert);
    shared.of = wanted;
    return shared.table;
  }

  Turing.Picture = class {
    /**
     * @param {HTMLCanvasElement} canvas - Filled to its own size; its backing store follows the screen's pixels.
     * @param {{width: number, height: number, pixels: Uint16Array}} image
     */
    constructor(canvas, image) {
      this.canvas = canvas;
      this.image = image;
      this.context = canvas.getContext("2d", { alpha: false });
      this.film = document.createElement("canvas"); // the picture at its own size, windowed
      this.film.width = image.width;
      this.film.height = image.height;
      this.filmContext = this.film.getContext("2d", { alpha: false, willReadFrequently: true });
      this.data = this.filmContext.createImageData(image.width, image.height);
      this.words = new Uint32Array(this.data.data.buffer);
      this.reset({ lo: 0, hi: LEVELS - 1 });
    }

    /** Start: this window, not inverted, the whole picture in view. */
    reset(window) {
      this.setWindow(window.lo, window.hi, false);
      this.fit();
    }

    setWindow(lo, hi, invert = this.invert) {
      const width = Math.min(2 * LEVELS, Math.max(64, hi - lo));
      const middle = Math.min(LEVELS * 1.25, Math.max(-LEVELS * 0.25, (lo + hi) / 2));
      this.lo = Math.round(middle - width / 2);
      this.hi = Math.round(middle + width / 2);
      this.invert = invert;
      this.stale = true;
    }

    /** The whole picture, centred. */
    fit() {
      this.zoom = 1;
      this.centre = { x: 0.5, y: 0.5 };
    }

    /** Screen pixels per picture pixel at zoom 1. */
    get fitScale() {
      return Math.min(this.canvas.width / this.image.width, this.canvas.height / this.image.height) || 1;
    }

    get scale() {
      return this.fitScale * this.zoom;
    }

    /** One picture pixel on one screen pixel. */
    oneToOne() {
      this.zoom = 1 / this.fitScale;
    }

    /** Zoom by a factor; the point `at` (fractions of the canvas) stays where it is. */
    zoomBy(factor, at = { x: 0.5, y: 0.5 }) {
      const before = this.scale;
      this.zoom = Math.min(MOST / this.fitScale, Math.max(0.2, this.zoom * factor));
      const held = 1 / before - 1 / this.scale;
      this.moveBy(((at.x - 0.5) * this.canvas.width * held), ((at.y - 0.5) * this.canvas.height * held));
    }

    /** Move the view by picture pixels; its centre stays on the picture. */
    moveBy(dx, dy) {
      const clamp = (value) => Math.min(1, Math.max(0, value));
      this.centre = {
        x: clamp(this.centre.x + dx / this.image.width),
        y: clamp(this.centre.y + dy / this.image.height),
      };
    }

    /** The canvas has another size in screen pixels. */
    resize(width, height) {
      if (this.canvas.width === width && this.canvas.height === height) return;
      this.canvas.width = width;
      this.canvas.height = height;
    }

    /** Put the grey values through the window, where it has changed since. */
    expose() {
      if (!this.stale) return;
      const table = tableFor(this.lo, this.hi, this.invert);
      const { pixels } = this.image, { words } = this;
      for (let i = 0; i < pixels.length; i++) words[i] = table[pixels[i]];
      this.filmContext.putImageData(this.data, 0, 0);
      this.stale = false;
    }

    /** Draw a film of this size at the place and zoom of this picture. */
    place(film) {
      const { context, canvas, image, scale } = this;
      const exact = Math.abs(scale - 1) < 1e-6; // 1:1: no interpolation, whole pixels
      const start = (size, length, centre) => size / 2 - centre * length * scale;
      let left = start(canvas.width, image.width, this.centre.x);
      let top = start(canvas.height, image.height, this.centre.y);
      if (exact) [left, top] = [Math.round(left), Math.round(top)];
      context.imageSmoothingEnabled = !exact;
      context.imageSmoothingQuality = scale < 1 ? "medium" : scale < 2 ? "low" : "high";
      context.drawImage(film, left, top, image.width * scale, image.height * scale);
    }

    draw() {
      this.expose();
      this.context.fillStyle = "#000";
      this.context.fillRect(0, 0, this.canvas.width, this.canvas.height);
      this.place(this.film);
    }
  };
})();
