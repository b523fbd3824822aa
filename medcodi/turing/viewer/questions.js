// The question beside the pictures. A task has parts (rating, choice, confidence, findings); each is drawn if it is there.
"use strict";
var Turing = Turing || {};

(function () {
  const { el } = Turing;

  const capital = (word) => word.charAt(0).toUpperCase() + word.slice(1);

  /** What is not answered yet, in words; empty when the answer is whole. */
  Turing.missing = function (task, value) {
    const left = [];
    if (task.scale && value.rating === undefined) left.push("a rating");
    if (task.choices && value.choice === undefined) left.push("a choice");
    if (task.confidence && value.confidence === undefined) left.push("your confidence");
    if (task.findings) {
      const open = task.findings.filter((name) => !(value.findings || {})[name]).length;
      if (open) left.push(open === 1 ? "one finding" : `${open} findings`);
    }
    return left;
  };

  /** Keys of the choices: their first letters, where those are not taken by the viewer. */
  Turing.choiceKeys = function (choices, taken) {
    const used = new Set(taken);
    return choices.map((choice) => {
      const letter = choice.charAt(0).toUpperCase();
      if (used.has(letter) || !/[A-Z]/.test(letter)) return null;
      used.add(letter);
      return letter;
    });
  };

  /** One option of a radio group, drawn as a button. A click by pointer gives the focus back to the pictures. */
  function option({ group, value, label, key, checked, pick, spoken = null }) {
    const input = el("input", { type: "radio", name: group, value, "aria-keyshortcuts": key, "aria-label": spoken, on: { change: () => pick(value) } });
    input.checked = checked;
    const face = el("span", { class: "face" }, label, key && key !== label ? el("kbd", { "aria-hidden": "true" }, key) : null);
    return el("label", { class: "option", on: { pointerup: () => setTimeout(() => Turing.focusPictures(), 0) } }, input, face);
  }

  /** Ratings and confidences: a list where every step has its words, a row of numbers otherwise. */
  function scale({ legend, group, min, max, labels, value, pick, keyed }) {
    const steps = Array.from({ length: max - min + 1 }, (_, i) => min + i);
    const worded = steps.every((step) => labels && labels[step]);
    const key = (step) => (keyed && step <= 10 ? String(step % 10) : null);
    const options = steps.map((step) => {
      const words = labels && labels[step];
      const face = worded ? el("span", {}, el("b", {}, String(step)), ` ${words}`) : String(step);
      return option({
        group, value: step, label: face, key: worded ? null : key(step), checked: value === step, pick,
        spoken: words ? `${step}: ${words}` : String(step),
      });
    });
    const ends = worded || !labels ? null : el("div", { class: "ends", "aria-hidden": "true" },
      el("span", {}, labels[min] || ""), el("span", {}, labels[max] || ""));
    const shape = worded ? "list" : `numbers n${steps.length > 5 ? 5 : steps.length}`;
    return el("fieldset", { class: "part" },
      el("legend", {}, legend, keyed ? el("kbd", { "aria-hidden": "true" }, `${min}–${max === 10 ? "0" : max}`) : null),
      el("div", { class: shape }, ...options), ends);
  }

  function findingsList(task, value, current, pick) {
    const given = value.findings || {};
    const rows = task.findings.map((name, row) => {
      const buttons = [["absent", "N"], ["present", "Y"]].map(([state, key]) => option({
        group: `finding-${row}`, value: state, label: capital(state), key: row === current ? key : null, checked: given[name] === state,
        spoken: `${name}: ${state}`, pick: (picked) => pick(name, picked, row),
      }));
      return el("div", { class: `finding${row === current ? " current" : ""}`, role: "radiogroup", "aria-label": name },
        el("span", { class: "name" }, name), ...buttons);
    });
    return el("fieldset", { class: "part findings" }, el("legend", {}, "Findings", el("kbd", { "aria-hidden": "true" }, "J K")), ...rows,
      Turing.button("Mark the rest absent", { key: "M", id: "rest-absent", click: () => pick(null, "absent", current) }));
  }

  Turing.Questions = class {
    /** @param {function(Object)} change - Receives the changed part of the answer. */
    constructor(task, item, { change, comment, taken }) {
      Object.assign(this, { task, item, change, comment });
      this.keys = task.choices ? Turing.choiceKeys(task.choices, taken) : [];
      this.row = 0;
      this.parts = el("div", { class: "parts" });
      this.text = task.free_text ? el("textarea", {
        id: "free-text", rows: "3", maxlength: "4000", "aria-keyshortcuts": "T", on: { input: () => this.comment(this.text.value) },
      }) : null;
      if (this.text) this.text.value = item.free_text;
      this.element = el("div", { class: "questions" }, this.parts, this.text && el("div", { class: "part" },
        el("label", { for: "free-text" }, task.free_text, el("kbd", { "aria-hidden": "true" }, "T")), this.text));
      this.draw();
    }

    /** Draw the parts anew from the answer; the focus stays on the same control. */
    draw() {
      const { task, item } = this, focused = document.activeElement;
      const held = focused && this.parts.contains(focused) ? [focused.name, focused.value, focused.id] : null;
      const parts = [];
      if (task.choices) parts.push(this.choices());
      if (task.scale) {
        parts.push(scale({ legend: "Rating", group: "rating", ...task.scale, value: item.value.rating, keyed: true, pick: (rating) => this.pick({ rating }) }));
      }
      if (task.confidence) {
        parts.push(scale({
          legend: "Confidence", group: "confidence", ...task.confidence, value: item.value.confidence, keyed: !task.scale,
          pick: (confidence) => this.pick({ confidence }),
        }));
      }
      if (task.findings) parts.push(findingsList(task, item.value, this.row, (name, state, row) => this.mark(name, state, row)));
      this.parts.replaceChildren(...parts);
      if (held) {
        const again = [...this.parts.querySelectorAll("input, button")].find((each) => each.name === held[0] && each.value === held[1] && each.id === held[2]);
        if (again) again.focus();
      }
    }

    choices() {
      const { task, item } = this;
      return el("fieldset", { class: "part" }, el("legend", {}, "Choice"), el("div", { class: `numbers n${task.choices.length}` },
        ...task.choices.map((choice, index) => option({
          group: "choice", value: choice, label: capital(choice), key: this.keys[index], checked: item.value.choice === choice,
          pick: (picked) => this.pick({ choice: picked }),
        }))));
    }

    pick(part) {
      this.change(part);
      this.draw();
    }

    /** Mark one finding, or (name null) all that are still open. */
    mark(name, state, row) {
      const findings = { ...(this.item.value.findings || {}) };
      for (const each of this.task.findings) if (each === name || (name === null && !findings[each])) findings[each] = state;
      this.row = row;
      this.pick({ findings });
    }

    moveRow(step) {
      if (!this.task.findings) return;
      this.row = Math.min(this.task.findings.length - 1, Math.max(0, this.row + step));
      Turing.announce(this.task.findings[this.row]);
      this.draw();
      this.parts.querySelector(".finding.current").scrollIntoView({ block: "nearest" });
    }

    /** A key that answers: a digit, a choice's letter, Y / N / M for findings. Returns whether it was one. */
    press(key) {
      const { task } = this, letter = key.toUpperCase(), choice = this.keys.indexOf(letter);
      if (choice >= 0) this.pick({ choice: task.choices[choice] });
      else if (/^[0-9]$/.test(key)) return this.digit(key === "0" ? 10 : Number(key));
      else if (task.findings && (letter === "Y" || letter === "N")) {
        const row = this.row;
        this.mark(task.findings[row], letter === "Y" ? "present" : "absent", Math.min(row + 1, task.findings.length - 1));
      } else if (task.findings && letter === "M") this.mark(null, "absent", this.row);
      else return false;
      return true;
    }

    digit(step) {
      const name = this.task.scale ? "rating" : "confidence", range = this.task.scale || this.task.confidence;
      if (!range || step < range.min || step > range.max) return false;
      this.pick({ [name]: step });
      Turing.announce(`${capital(name)} ${step}`);
      return true;
    }
  };
})();
