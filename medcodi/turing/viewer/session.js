// Answers of the reader so far: stored in this browser, saved to a file, and checked when a file is loaded.
"use strict";
var Turing = Turing || {};

(function () {
  const FORMAT = 1;
  const KIND = "medcodi-turing-results";
  const now = () => new Date().toISOString();
  const cents = (seconds) => Math.round(seconds * 100) / 100;

  /** Runs of trials of one task: `{task, start, end}`, end excluded. Going back stays inside one. */
  function blocksOf(trials) {
    const blocks = [];
    trials.forEach(({ task }, index) => {
      const last = blocks[blocks.length - 1];
      if (last && last.task === task) last.end = index + 1;
      else blocks.push({ task, start: index, end: index + 1 });
    });
    return blocks;
  }

  Turing.Session = class {
    constructor(study) {
      this.study = study;
      this.tasks = new Map(study.tasks.map((task) => [task.id, task]));
      this.trials = study.trials.slice().sort((a, b) => a.position - b.position);
      this.blocks = blocksOf(this.trials);
      this.storageKey = `medcodi-turing/${study.bundle_id}/${study.reader}/${study.study_sha256.slice(0, 16)}`;
      this.keeps = true; // whether this browser can store anything
      this.state = this.empty();
      this.open = false; // whether a session is running
      this.frozen = false; // true: another tab writes, this one must not
    }

    empty() {
      return { consent: null, display_check: null, sessions: [], items: {}, begun: -1, shut: -1, skipped: [] };
    }

    /** Load what this browser stored, or the server of a served study has. Returns whether there was anything. */
    load() {
      let stored = null;
      try {
        stored = localStorage.getItem(this.storageKey);
        if (stored) this.state = { ...this.empty(), ...JSON.parse(stored) };
        else localStorage.setItem(`${this.storageKey}/try`, "1");
        localStorage.removeItem(`${this.storageKey}/try`);
      } catch {
        this.keeps = false;
      }
      return Turing.server ? Turing.server.load(this, Boolean(stored)) : Boolean(stored);
    }

    save() {
      if (this.frozen) return;
      const current = this.state.sessions[this.state.sessions.length - 1];
      if (this.open && current) current.ended = now();
      try {
        localStorage.setItem(this.storageKey, JSON.stringify(this.state));
        this.keeps = true;
      } catch {
        this.keeps = false;
      }
      if (Turing.server) Turing.server.save(this);
    }

    /** Begin a session: the first, or one after a break. */
    begin() {
      if (this.open) return;
      this.open = true;
      this.state.sessions.push({ started: now(), ended: now() });
      this.save();
    }

    consent() {
      this.state.consent = { given: true, at: now() };
      this.save();
    }

    displayChecked(passed, answer) {
      this.state.display_check = { passed, answer };
      this.save();
    }

    /** The item's record, made at the first visit. */
    item(index) {
      const { trial } = this.trials[index];
      this.state.items[trial] ||= { value: {}, free_text: "", seconds: 0, visits: 0, changes: 0, answered_at: null, window: null };
      return this.state.items[trial];
    }

    task(index) {
      return this.tasks.get(this.trials[index].task);
    }

    answered(index) {
      const item = this.state.items[this.trials[index].trial];
      return Boolean(item) && Turing.missing(this.task(index), item.value).length === 0;
    }

    get done() {
      return this.trials.filter((_, index) => this.answered(index)).length;
    }

    get complete() {
      return this.done === this.trials.length;
    }

    /** Change part of an answer. A change of a complete answer is counted. */
    answer(index, part, window) {
      const item = this.item(index), whole = this.answered(index), before = Turing.canonical(item.value);
      item.value = { ...item.value, ...part };
      if (Turing.canonical(item.value) === before) return;
      if (whole) item.changes++;
      item.answered_at = now();
      item.window = window;
      this.save();
    }

    comment(index, text) {
      this.item(index).free_text = Turing.wellFormed(text);
      this.save();
    }

    addSeconds(index, seconds) {
      this.item(index).seconds += seconds;
    }

    skip(index) {
      const { trial } = this.trials[index];
      if (!this.state.skipped.includes(trial)) this.state.skipped.push(trial);
      this.save();
    }

    passed(index) {
      return this.answered(index) || this.state.skipped.includes(this.trials[index].trial);
    }

    blockOf(index) {
      return this.blocks.findIndex(({ start, end }) => index >= start && index < end);
    }

    /** Introducing a task closes the tasks before it for good, also if the page is reloaded. */
    shut(block) {
      this.state.shut = Math.max(this.state.shut, block);
      this.save();
    }

    /** Where to resume: `{block, index}`; without an index, the block's introduction (`ended` false) or its end. */
    next() {
      const { begun, shut } = this.state;
      if (shut >= begun) return { block: shut + 1, index: null, ended: false };
      const { start, end } = this.blocks[begun];
      for (let index = start; index < end; index++) if (!this.passed(index)) return { block: begun, index, ended: false };
      return { block: begun, index: null, ended: true };
    }

    /** The result so far, sealed: the final file when complete, a progress file before. */
    result() {
      const { study, state } = this;
      const answers = this.trials.flatMap((trial, index) => {
        if (!this.answered(index)) return [];
        const { value, free_text, seconds, visits, changes, answered_at, window } = this.item(index);
        const { position, trial: id, task, practice } = trial;
        return [{ position, trial: id, task, practice, value, free_text, seconds: cents(seconds), visits, changes, answered_at, window }];
      });
      return Turing.seal({
        format: FORMAT, kind: KIND, bundle_id: study.bundle_id, reader: study.reader, key_sha256: study.key_sha256,
        study_sha256: study.study_sha256, viewer_version: Turing.VERSION, complete: this.complete,
        consent: state.consent, display_check: state.display_check,
        environment: {
          user_agent: navigator.userAgent, screen: [screen.width, screen.height],
          device_pixel_ratio: Math.round((window.devicePixelRatio || 1) * 1000) / 1000,
        },
        sessions: state.sessions, answers,
      });
    }

    get fileName() {
      return `${this.study.bundle_id}-${this.study.reader}${this.complete ? "" : "-progress"}.json`;
    }

    /**
     * Read a progress file's text.
     * @returns {Object} the record, checked.
     * @throws {Error} a sentence for the reader: what is wrong, what was expected, how to fix it.
     */
    read(text) {
      let record;
      try {
        record = JSON.parse(text);
      } catch {
        throw new Error("This file is not JSON. Expected: a progress file that this viewer saved. Fix: choose another file.");
      }
      if (!record || record.kind !== KIND) throw new Error("This is no progress file of a reading session. Fix: choose another file.");
      if (record.format !== FORMAT) throw new Error(`The file has format ${record.format}; this viewer reads ${FORMAT}. Fix: use the viewer that saved it.`);
      for (const [name, said] of [["bundle_id", "study"], ["reader", "reader"], ["key_sha256", "study key"], ["study_sha256", "study"]]) {
        if (record[name] !== this.study[name]) {
          throw new Error(`The file belongs to another ${said}: its ${name} is ${record[name]}, expected ${this.study[name]}. Fix: choose the file saved from this folder.`);
        }
      }
      if (Turing.checksumOf(record) !== record.checksum) {
        throw new Error("The file was changed after it was saved: its checksum is wrong. Fix: use the original download.");
      }
      const at = new Map(this.trials.map((trial) => [trial.trial, trial.position]));
      const strange = record.answers.find((answer) => at.get(answer.trial) !== answer.position);
      if (strange) throw new Error(`The file answers trial ${strange.trial}, which is not at position ${strange.position} in this folder. Fix: choose the file saved from this folder.`);
      return record;
    }

    /** Resume from a checked record, which replaces the answers here. Tasks that it has finished stay closed. */
    adopt(record) {
      const items = {};
      for (const answer of record.answers) {
        const { value, free_text, seconds, visits, changes, answered_at, window } = answer;
        items[answer.trial] = { value, free_text, seconds, visits, changes, answered_at, window };
      }
      const { consent, display_check, sessions } = record;
      this.state = { ...this.empty(), consent, display_check, sessions: sessions.slice(), items };
      this.trials.forEach((_, index) => {
        if (this.answered(index)) this.state.begun = Math.max(this.state.begun, this.blockOf(index));
      });
      const { ended, block } = this.next(); // the file does not say what its reader saw after a finished task
      this.state.shut = Math.min(ended ? block : block - 1, this.blocks.length - 2);
      this.open = false;
      this.save();
    }
  };
})();
