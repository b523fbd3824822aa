// The pages around the reading: welcome, consent, what a task asks, breaks between tasks, resuming, the end.
"use strict";
var Turing = Turing || {};

(function () {
  const { el, button, paragraphs } = Turing;

  /**
   * Show a page: its heading gets the focus, Enter presses its primary button.
   * @param {{name: string, title: string, body: Array, buttons: Array}} content
   */
  Turing.showPage = function ({ name, title, body = [], buttons = [] }) {
    const heading = el("h1", { tabindex: "-1" }, title);
    const page = el("main", { class: "page", id: `page-${name}` }, heading, ...body, el("div", { class: "row" }, ...buttons));
    page.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.target.matches("button, a, textarea, input[type=file]")) return;
      const primary = page.querySelector("button.primary:not(:disabled)");
      if (!primary) return;
      event.preventDefault();
      event.stopPropagation(); // the page that opens listens for Enter too
      primary.click();
    });
    document.body.dataset.page = name;
    document.getElementById("app").replaceChildren(page);
    heading.focus();
    return page;
  };

  /** A page that says what went wrong and how to fix it. */
  Turing.showFailure = (title, text) => Turing.showPage({ name: "failure", title, body: paragraphs(text) });

  /** A note in the page, replaced by the next one. */
  function note(text, kind = "warning") {
    return el("p", { class: `note ${kind}`, role: "alert" }, text);
  }

  const count = (number, word) => `${number} ${word}${number === 1 ? "" : "s"}`;

  Turing.Pages = class {
    constructor(app) {
      this.app = app;
      this.study = app.study;
      this.session = app.session;
    }

    /** Load a progress file. Asks before it replaces more answers than it holds. */
    loadControl() {
      const said = el("div", {});
      const input = el("input", { type: "file", id: "progress-file", class: "unseen", accept: ".json,application/json" });
      const adopt = (record) => { this.session.adopt(record); this.app.resume(); };
      input.addEventListener("change", async () => {
        const [file] = input.files;
        if (!file) return;
        try {
          const record = this.session.read(await file.text());
          const here = this.session.done, there = record.answers.length;
          if (here <= there) adopt(record);
          else Turing.dialog({
            id: "replace", title: "Replace what is here?",
            body: [el("p", {}, `This browser holds ${count(here, "answer")}; the file holds ${there}.`)],
            buttons: [{ label: "Keep what is here", primary: true }, { label: "Use the file", click: () => adopt(record) }],
          });
        } catch (error) {
          said.replaceChildren(note(error.message, "error"));
        }
        input.value = "";
      });
      const face = el("label", { for: "progress-file", class: "as-button" }, "Resume from a progress file …");
      return [el("div", { class: "file" }, input, face), said];
    }

    storageNote() {
      return this.session.keeps || Turing.server ? null : note(
        "This browser stores nothing between visits. Save a progress file (key S) before you close the page, or your answers are lost.");
    }

    welcome() {
      const [file, said] = this.loadControl(), { pages } = this.study;
      const stored = Turing.server
        ? "Answers are stored on the server of the study after every click; you may close the page and come back by the same link."
        : "Answers are stored in this browser after every click; you may close the page and come back. Nothing is sent anywhere: at the end you save one file.";
      Turing.showPage({
        name: "welcome", title: this.study.title,
        body: [
          ...paragraphs(Turing.server ? pages.welcome_served : pages.welcome), this.storageNote(),
          el("p", { class: "quiet" }, `${count(this.session.trials.length, "item")}. ${stored}`),
          said,
        ],
        buttons: [button("Begin", { primary: true, id: "begin", click: () => { this.session.begin(); this.app.resume(); } }), file],
      });
    }

    /** After a reload, a crash or a break. */
    welcomeBack() {
      const [file, said] = this.loadControl(), { done, trials } = this.session;
      Turing.showPage({
        name: "resume", title: this.study.title,
        body: [
          el("p", {}, `Welcome back: ${done} of ${count(trials.length, "item")} answered.`),
          el("progress", { max: trials.length, value: done, "aria-label": "Items answered" }), this.storageNote(), said,
        ],
        buttons: [button("Continue", { primary: true, id: "continue", click: () => { this.session.begin(); this.app.goOn(); } }), file],
      });
    }

    consent() {
      const box = el("input", { type: "checkbox", id: "consent", on: { change: () => { go.disabled = !box.checked; } } });
      const go = button("Continue", {
        primary: true, id: "agree", click: () => { this.session.consent(); this.app.goOn(); },
      });
      go.disabled = true;
      Turing.showPage({
        name: "consent", title: "Consent",
        body: [...paragraphs(this.study.pages.consent), el("label", { class: "tick" }, box, this.study.pages.consent_label || "I agree to take part.")],
        buttons: [go],
      });
    }

    /** Introduction of the next task. From here on the previous task is closed. */
    intro(block) {
      const { session } = this, { task: id, start, end } = session.blocks[block], task = session.tasks.get(id);
      const practice = session.trials.slice(start, end).filter((trial) => trial.practice).length;
      const size = `${count(end - start - practice, "item")}${practice ? ` after ${count(practice, "practice item")}` : ""}.`;
      this.app.prefetch(start);
      session.shut(block - 1);
      Turing.showPage({
        name: "intro", title: task.title,
        body: [
          el("p", { class: "quiet" }, `Task ${block + 1} of ${session.blocks.length} · ${size}`),
          ...paragraphs(task.instructions), el("p", { class: "asked" }, task.question),
          el("p", { class: "quiet" }, "Drag on a picture to change its window, turn the wheel to zoom; press H for every shortcut."),
        ],
        buttons: [
          button("Start", { primary: true, id: "start", click: () => { session.state.begun = block; session.save(); this.app.read(start); } }),
        ],
      });
    }

    /** End of a task: go back into it, or close it. */
    blockEnd(block) {
      const { session } = this, { end } = session.blocks[block], last = block === session.blocks.length - 1;
      Turing.showPage({
        name: "block-end", title: last ? "The last task is finished" : "This task is finished",
        body: [
          el("p", {}, `${session.done} of ${count(session.trials.length, "item")} answered.`), this.storageNote(),
          el("p", {}, last ? "You may go back to its items, or finish." : "A good place for a break: your answers are stored. You may go back to this task's items now; once the next task begins, they are closed."),
        ],
        buttons: [
          button(last ? "Finish" : "Next task", {
            primary: true, id: "next-task", click: () => (last ? this.end() : this.intro(block + 1)),
          }),
          button("Back to the last item", { id: "back-to-task", click: () => this.app.read(end - 1) }),
          button("Save progress file", { id: "save-file", click: () => this.app.saveFile() }),
        ],
      });
    }

    end() {
      const { session } = this, { server } = Turing, open = session.trials.length - session.done;
      session.save();
      const saved = el("p", { class: "note done", id: "saved", role: "status" });
      Turing.showPage({
        name: "end", title: open ? `${count(open, "item")} could not be answered` : "Thank you",
        body: [
          ...paragraphs(server ? this.study.pages.end_served : this.study.pages.end),
          open ? note("The result says which items are missing. Please tell the people who run the study.") : null,
          server ? null : el("p", {}, "Save the result and send this one file, unchanged, to the people who run the study: ", el("code", {}, session.fileName)),
          saved,
        ],
        buttons: [button(server ? "Save a copy" : "Save the result", {
          primary: !server, id: "download", click: () => {
            this.app.saveFile();
            saved.textContent = "Saved to your download folder. You may save it again, and close this page.";
          },
        })],
      });
      if (server) server.delivered(session).then(() => { saved.textContent = "Your answers are stored on the server of the study. You may close this page."; });
    }
  };
})();
