// Where it starts: reads the study, takes up what was kept, and leads from page to page.
"use strict";
var Turing = Turing || {};

Turing.VERSION = "1";

(function () {
  const AHEAD = 2; // items read ahead

  class App {
    constructor(study) {
      this.study = study;
      this.session = new Turing.Session(study);
      this.payloads = new Turing.Payloads();
      this.pages = new Turing.Pages(this);
      this.page = null; // the reading page that is open
    }

    start() {
      document.title = this.study.title;
      const kept = this.session.load();
      if (kept && this.session.state.sessions.length) this.pages.welcomeBack();
      else this.pages.welcome();
      const { block, index } = this.session.next();
      this.prefetch(index === null ? this.session.blocks[block].start : index);
      window.addEventListener("pagehide", () => (this.page ? this.page.tick() : this.session.save()));
      window.addEventListener("storage", (event) => {
        if (event.key === this.session.storageKey && event.newValue) this.elsewhere();
      });
    }

    /** After a start or a progress file: the pages that are still due, then the items. */
    resume() {
      if (this.session.state.sessions.length && !this.session.open) this.pages.welcomeBack();
      else this.goOn();
    }

    /** The next thing due. */
    goOn() {
      const { session, study } = this;
      if (!session.state.consent) return this.pages.consent();
      if (!session.state.display_check) {
        return Turing.displayCheck(study.pages.display_check, (passed, answer) => { session.displayChecked(passed, answer); this.goOn(); });
      }
      if (session.complete) return this.pages.end();
      const { block, index, ended } = session.next();
      if (index !== null) return this.read(index);
      return ended ? this.pages.blockEnd(block) : this.pages.intro(block);
    }

    read(index) {
      this.page = new Turing.ReadingPage(this, index);
    }

    /** Have the payloads of this item and the ones after it in memory. A failure shows when the item is opened. */
    prefetch(index) {
      for (const trial of this.session.trials.slice(index, index + AHEAD)) {
        for (const { payload } of trial.panels) this.payloads.get(payload).catch(() => {});
      }
    }

    saveFile() {
      this.session.save();
      Turing.download(this.session.fileName, this.session.result());
    }

    /** The same session was opened in another tab, or on another computer: two pens on one sheet. */
    elsewhere() {
      if (document.getElementById("elsewhere")) return;
      this.session.frozen = true;
      if (this.page) this.page.clock.hold("elsewhere");
      Turing.dialog({
        id: "elsewhere", title: "Open in another tab",
        body: [Turing.el("p", {}, "This session goes on in another tab, window or computer. Close this one, or continue here after closing the other.")],
        buttons: [{ label: "Continue here", primary: true, click: () => location.reload() }],
      });
    }
  }

  Turing.settings.load();
  if (typeof MEDCODI_STUDY === "undefined") {
    Turing.showFailure("The study is missing", "study.js was not found beside index.html, or is damaged.\n\nFix: unpack the whole folder, and open index.html from there (not from inside the zip).");
  } else if (MEDCODI_STUDY.format !== 1) {
    Turing.showFailure("Another format", `study.js has format ${MEDCODI_STUDY.format}; this viewer reads format 1.\n\nFix: export the bundle again with one version of MedCoDi.`);
  } else {
    Turing.app = new App(MEDCODI_STUDY);
    Turing.app.start();
  }
})();
