// The reading page: panels, toolbar, question, and the clock of one item.
"use strict";
var Turing = Turing || {};

(function () {
  const { el, button } = Turing;

  /** Seconds that an item was in front of the reader: not while hidden, paused, loading or under a help sheet. */
  class Clock {
    constructor() {
      this.total = 0;
      this.since = null;
      this.reasons = new Set(["loading"]);
    }

    hold(reason) {
      this.total += this.running();
      this.since = null;
      this.reasons.add(reason);
    }

    release(reason) {
      this.reasons.delete(reason);
      if (this.reasons.size === 0 && this.since === null) this.since = performance.now();
    }

    running() {
      return this.since === null ? 0 : (performance.now() - this.since) / 1000;
    }

    /** Seconds since the last call. */
    take() {
      const seconds = this.total + this.running();
      this.total = 0;
      if (this.since !== null) this.since = performance.now();
      return seconds;
    }
  }

  /** Give the focus back to the pictures, where every shortcut works. */
  Turing.focusPictures = function () {
    const body = document.querySelector(".panel.active .panel-body, .panel-body");
    if (body) body.focus({ preventScroll: true });
  };

  Turing.ReadingPage = class {
    constructor(app, index) {
      Object.assign(this, { app, index, session: app.session, task: app.session.task(index), ready: false });
      this.item = this.session.item(index);
      this.item.visits++;
      this.clock = new Clock();
      this.views = new Turing.Views(this.session.trials[index].panels, app.study.windows || [], () => this.refreshToolbar());
      this.questions = new Turing.Questions(this.task, this.item, {
        taken: Turing.takenLetters,
        change: (part) => { this.session.answer(index, part, this.windowNow()); this.refresh(); },
        comment: (text) => this.session.comment(index, text),
      });
      this.build();
      this.stopListening = Turing.listen(this);
      this.ticker = setInterval(() => this.tick(), 5000);
      this.onHidden = () => (document.hidden ? this.clock.hold("hidden") : this.clock.release("hidden"));
      document.addEventListener("visibilitychange", this.onHidden);
      if (document.hidden) this.clock.hold("hidden");
      this.load();
    }

    windowNow() {
      const picture = this.views.current;
      return picture ? [picture.lo, picture.hi] : null;
    }

    build() {
      this.aside = el("aside", { class: "question", "aria-label": "Question" },
        el("h2", {}, this.task.question), this.questions.element,
        el("p", { class: "missing", id: "missing", "aria-live": "polite" }),
        el("div", { class: "row go" },
          this.backButton = button("Back", { key: "⌫", id: "back", click: () => this.back() }),
          this.nextButton = button("Next", { key: "↵", id: "next", primary: true, click: () => this.forward() })));
      this.tools = new Turing.Toolbar(this.views);
      const page = el("main", { class: "reading", id: "page-reading" }, this.topBar(),
        el("section", { class: "stage", "aria-label": "Item" }, this.views.element, this.tools.element), this.aside);
      document.body.dataset.page = "reading";
      document.getElementById("app").replaceChildren(page);
      this.refresh();
      this.refreshToolbar();
    }

    topBar() {
      const { session, index } = this, block = session.blocks[session.blockOf(index)];
      const { practice } = session.trials[index];
      const same = session.trials.slice(block.start, block.end).map((trial, i) => ({ ...trial, at: block.start + i })).filter((trial) => trial.practice === practice);
      this.place = `${practice ? "Practice item" : "Item"} ${same.findIndex(({ at }) => at === index) + 1} of ${same.length}`;
      this.progress = el("progress", { id: "progress", max: session.trials.length, "aria-label": "Items answered" });
      this.percent = el("span", { id: "percent" });
      return el("header", { class: "bar" },
        el("h1", {}, this.task.title), practice ? el("span", { class: "badge" }, "Practice, not counted") : null,
        el("span", { class: "place", id: "place" }, this.place), this.progress, this.percent,
        el("span", { class: "grow" }),
        button("Save", { key: "S", title: "Save a progress file", id: "save", click: () => this.saveFile() }),
        button("Pause", { key: "P", id: "pause", click: () => this.pause() }),
        button("Help", { key: "H", id: "help-button", click: () => this.help() }));
    }

    refreshToolbar() {
      if (this.tools) this.tools.refresh();
    }

    /** After an answer changed: progress, what is missing, and whether the reader may continue. */
    refresh() {
      const { session, index } = this, left = Turing.missing(this.task, this.item.value), total = session.trials.length;
      this.progress.value = session.done;
      this.percent.textContent = `${session.done} / ${total}`;
      this.nextButton.disabled = !this.ready || !session.passed(index);
      this.backButton.disabled = index === session.blocks[session.blockOf(index)].start;
      this.aside.querySelector("#missing").textContent = !left.length ? "" : `Still needed: ${left.join(" and ")}.`;
    }

    async load() {
      try {
        const payloads = await Promise.all(this.session.trials[this.index].panels.map(({ payload }) => this.app.payloads.get(payload)));
        if (this.app.page !== this) return;
        this.views.fill(payloads);
        this.ready = true;
        this.refresh();
        Turing.focusPictures();
        Turing.announce(`${this.place}. ${this.task.question}`);
        requestAnimationFrame(() => setTimeout(() => this.shown(), 0)); // after the frame that shows it
      } catch (error) {
        if (this.app.page === this) this.failed(error);
      }
    }

    shown() {
      this.clock.release("loading");
      document.dispatchEvent(new CustomEvent("turing-shown", { detail: { index: this.index, at: performance.now() } }));
      this.app.prefetch(this.index + 1);
    }

    failed(error) {
      Turing.dialog({
        id: "broken", title: "This item cannot be shown",
        body: [el("p", {}, `${error.message}.`), el("p", {}, "Fix: unpack the whole folder again and try once more. If it fails again, skip the item: it will be listed as missing.")],
        buttons: [
          { label: "Try again", primary: true, click: () => this.load() },
          { label: "Skip this item", click: () => { this.session.skip(this.index); this.move(1); } },
        ],
      });
    }

    /** Record the time so far. */
    tick() {
      this.session.addSeconds(this.index, this.clock.take());
      this.session.save();
    }

    forward() {
      if (!this.ready || !this.session.passed(this.index)) {
        const left = Turing.missing(this.task, this.item.value);
        if (this.ready) Turing.announce(`Still needed: ${left.join(" and ")}`);
        this.aside.querySelector("#missing").classList.add("called");
        return;
      }
      this.move(1);
    }

    back() {
      if (!this.backButton.disabled) this.move(-1);
    }

    move(step) {
      const { session, index } = this, block = session.blockOf(index), { end } = session.blocks[block];
      this.leave();
      if (index + step >= end) this.app.pages.blockEnd(block);
      else this.app.read(index + step);
    }

    leave() {
      this.tick();
      clearInterval(this.ticker);
      this.stopListening();
      document.removeEventListener("visibilitychange", this.onHidden);
      this.views.dispose();
      this.app.page = null;
    }

    pause() {
      this.clock.hold("paused");
      this.tick();
      document.body.classList.add("paused");
      Turing.dialog({
        id: "paused", title: "Paused", body: [el("p", {}, "The item is hidden and its clock is stopped.")],
        buttons: [{ label: "Continue", primary: true, click: () => { document.body.classList.remove("paused"); this.clock.release("paused"); } }],
      });
    }

    help() {
      this.clock.hold("help");
      Turing.helpSheet(this.task, () => this.clock.release("help"));
    }

    saveFile() {
      this.tick();
      this.app.saveFile();
      Turing.announce("Progress file saved to the download folder");
    }
  };
})();
