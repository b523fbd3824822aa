// The panels of one item: pictures and texts side by side, linked or each on its own.
"use strict";
var Turing = Turing || {};

(function () {
  const { el } = Turing;

  Turing.Views = class {
    /**
     * @param {Array} panels - `{slot, title, kind}` as in the study file; `note` is a line below.
     * @param {Array} windows - Presets `{name, lo, hi}`; the first is where every item starts.
     * @param {function} changed - Called after every change of window, zoom, link or active panel.
     */
    constructor(panels, windows, changed) {
      this.windows = windows.length ? windows : [{ name: "Full", lo: 0, hi: 65535 }];
      this.changed = changed;
      this.linked = true;
      this.frames = 0; // drawn so far; benchmarks count them
      this.scheduled = false;
      this.views = panels.map((panel, index) => this.makePanel(panel, index));
      this.active = this.views[0];
      this.element = el("div", { class: `panels of-${panels.length}` }, ...this.views.map((view) => view.element));
      const texts = panels.filter((panel) => panel.kind === "text").length;
      if (texts && texts < panels.length) this.element.classList.add("mixed");
      this.observer = new ResizeObserver((entries) => this.resized(entries));
      this.markActive();
    }

    get pictures() {
      return this.views.map((view) => view.picture).filter(Boolean);
    }

    get heading() {
      return (this.active && this.active.name) || "";
    }

    makePanel(panel, index) {
      const name = [panel.slot, panel.title].filter(Boolean).join(" · ") || `Panel ${index + 1}`;
      const body = el("div", {
        class: `panel-body ${panel.kind}`, tabindex: "0", role: panel.kind === "image" ? "img" : "document",
        "aria-label": panel.kind === "image" ? `${name}: picture. Shortcuts change window, zoom and place; press H for them.` : name,
      }, el("p", { class: "loading" }, "Loading …"));
      const view = { panel, name, body, picture: null, textSize: 1 };
      const note = panel.note ? el("p", { class: "panel-note" }, panel.note) : null;
      view.element = el("figure", { class: "panel" }, el("figcaption", {}, name), body, note);
      view.element.addEventListener("pointerdown", () => this.activate(view));
      body.addEventListener("focus", () => this.activate(view));
      return view;
    }

    activate(view) {
      if (this.active === view) return;
      this.active = view;
      this.markActive();
      this.changed();
    }

    activateNext() {
      const next = this.views[(this.views.indexOf(this.active) + 1) % this.views.length];
      next.body.focus();
      this.activate(next);
    }

    markActive() {
      for (const view of this.views) view.element.classList.toggle("active", view === this.active && this.views.length > 1);
    }

    /** Put the decoded payloads in, in the order of the panels. */
    fill(payloads) {
      payloads.forEach((payload, index) => {
        const view = this.views[index];
        if (payload.kind === "text") {
          view.body.replaceChildren(el("div", { class: "report" }, payload.text));
          return;
        }
        const canvas = el("canvas", { "aria-hidden": "true" });
        view.body.replaceChildren(canvas);
        view.picture = payload.after ? new Turing.Comparison(canvas, payload, payload.after) : new Turing.Picture(canvas, payload);
        view.picture.reset(this.windows[0]);
        Turing.attachPointer(canvas, view, this);
        const ratio = window.devicePixelRatio || 1;
        const box = view.body.getBoundingClientRect();
        view.picture.resize(Math.round(box.width * ratio), Math.round(box.height * ratio));
        view.picture.draw();
        this.observer.observe(canvas);
      });
      this.changed();
    }

    resized(entries) {
      for (const entry of entries) {
        const view = this.views.find((each) => each.picture && each.picture.canvas === entry.target);
        const exact = entry.devicePixelContentBoxSize && entry.devicePixelContentBoxSize[0];
        const ratio = window.devicePixelRatio || 1;
        const width = exact ? exact.inlineSize : Math.round(entry.contentRect.width * ratio);
        const height = exact ? exact.blockSize : Math.round(entry.contentRect.height * ratio);
        if (!view || !width || !height) continue;
        view.picture.resize(width, height);
        view.picture.draw(); // at once: a resized canvas is empty until it is drawn
      }
      this.changed();
    }

    /** Pictures that a command reaches: all when linked, else the active one. */
    targets() {
      if (this.linked) return this.pictures;
      return this.active && this.active.picture ? [this.active.picture] : [];
    }

    /** Do this to the pictures in reach, then draw once, in the next frame. */
    apply(action) {
      this.targets().forEach(action);
      this.changed();
      if (this.scheduled) return;
      this.scheduled = true;
      requestAnimationFrame(() => {
        this.scheduled = false;
        for (const picture of this.pictures) picture.draw();
        this.frames++;
      });
    }

    /** Zoom; where the active panel is a text, its letters. */
    zoomBy(factor, at) {
      if (this.active && this.active.panel.kind === "text") {
        this.active.textSize = Math.min(3, Math.max(0.6, this.active.textSize * factor));
        this.active.body.style.fontSize = `${this.active.textSize}em`;
        return;
      }
      this.apply((picture) => picture.zoomBy(factor, at));
    }

    /** Move by a share of the canvas. */
    panBy(x, y) {
      if (this.active && this.active.panel.kind === "text") this.active.body.scrollBy(0, y * this.active.body.clientHeight);
      else this.apply((picture) => picture.moveBy((x * picture.canvas.width) / picture.scale, (y * picture.canvas.height) / picture.scale));
    }

    /** Shift the level and widen the window by grey values. */
    windowBy(level, width) {
      this.apply((picture) => picture.setWindow(picture.lo + level - width / 2, picture.hi + level + width / 2));
    }

    invert() {
      this.apply((picture) => picture.setWindow(picture.lo, picture.hi, !picture.invert));
    }

    preset(index) {
      const { lo, hi, name } = this.windows[index];
      this.apply((picture) => picture.setWindow(lo, hi));
      Turing.announce(`Window ${name}`);
    }

    /** Which preset the picture in hand shows, or -1. */
    get presetIndex() {
      const picture = this.current;
      return picture ? this.windows.findIndex(({ lo, hi }) => lo === picture.lo && hi === picture.hi) : -1;
    }

    nextPreset(step) {
      const count = this.windows.length;
      this.preset((Math.max(this.presetIndex, step > 0 ? -1 : 0) + step + count) % count);
    }

    /** The picture whose window the toolbar and the answer tell: the active one, else the first. */
    get current() {
      return (this.active && this.active.picture) || this.pictures[0] || null;
    }

    reset() {
      for (const view of this.views) { view.textSize = 1; view.body.style.fontSize = ""; }
      this.apply((picture) => picture.reset(this.windows[0]));
    }

    toggleLink() {
      this.linked = !this.linked;
      if (this.linked && this.current) {
        const { lo, hi, invert, zoom, centre } = this.current;
        this.apply((picture) => {
          picture.setWindow(lo, hi, invert);
          picture.zoom = zoom;
          picture.centre = { ...centre };
        });
      }
      Turing.announce(this.linked ? "Views linked" : "Views on their own");
      this.changed();
    }

    dispose() {
      this.observer.disconnect();
    }
  };

  /** Drag: window and level. Shift, middle or right button, or two fingers: move; wheel or pinch: zoom. */
  Turing.attachPointer = function (canvas, view, views) {
    const down = new Map(); // pointer id -> last place
    const ratio = () => window.devicePixelRatio || 1;
    const spread = () => {
      const [a, b] = [...down.values()];
      return Math.hypot(a.x - b.x, a.y - b.y) || 1;
    };
    canvas.addEventListener("pointerdown", (event) => {
      try { canvas.setPointerCapture(event.pointerId); } catch { /* a pointer made by a script has nothing to capture */ }
      down.set(event.pointerId, { x: event.clientX, y: event.clientY, pan: event.shiftKey || event.button > 0 });
      views.activate(view);
      view.body.focus({ preventScroll: true });
      event.preventDefault();
    });
    canvas.addEventListener("pointermove", (event) => {
      const last = down.get(event.pointerId);
      if (!last) return;
      const before = down.size === 2 ? spread() : 1;
      const dx = event.clientX - last.x, dy = event.clientY - last.y;
      Object.assign(last, { x: event.clientX, y: event.clientY });
      if (down.size === 2 || last.pan) {
        const share = down.size === 2 ? 0.5 : 1;
        const grow = down.size === 2 ? spread() / before : 1;
        views.apply((picture) => {
          picture.moveBy((-dx * share * ratio()) / picture.scale, (-dy * share * ratio()) / picture.scale);
          if (grow !== 1) picture.zoomBy(grow);
        });
      } else views.windowBy(dy * 65, dx * 130); // up brightens; right widens. 500 pixels cross the whole range
    });
    const up = (event) => down.delete(event.pointerId);
    canvas.addEventListener("pointerup", up);
    canvas.addEventListener("pointercancel", up);
    canvas.addEventListener("lostpointercapture", up);
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("dblclick", () =>
      views.apply((picture) => (Math.abs(picture.zoom - 1) < 1e-6 ? picture.oneToOne() : picture.fit())));
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      const box = canvas.getBoundingClientRect();
      const at = { x: (event.clientX - box.left) / box.width, y: (event.clientY - box.top) / box.height };
      const lines = event.deltaMode === 1 ? 33 : 1;
      views.activate(view);
      views.zoomBy(Math.exp((-event.deltaY * lines) / 500), at);
    }, { passive: false });
  };
})();
