// Every command of the viewer, once: the keyboard, the toolbar's hints and the help sheet all read this table.
"use strict";
var Turing = Turing || {};

(function () {
  const { el } = Turing;

  // keys as in KeyboardEvent.key (letters in upper case), what the help says, what it does to the reading page, and
  // which tasks it is for. Answer keys are told for the task at hand only: a help sheet must not disclose a later task.
  Turing.COMMANDS = [
    { group: "Answer", keys: ["J"], says: "Findings: next row", when: (task) => task.findings, run: (page) => page.questions.moveRow(1) },
    { group: "Answer", keys: ["K"], says: "Findings: row above", when: (task) => task.findings, run: (page) => page.questions.moveRow(-1) },
    { group: "Answer", keys: ["T"], says: "Write a comment; Escape leaves it, Ctrl+Enter goes on", when: (task) => task.free_text, run: (page) => page.questions.text.focus() },
    { group: "Go", keys: ["Enter", "PageDown"], says: "Next item", run: (page) => page.forward() },
    { group: "Go", keys: ["Backspace", "PageUp"], says: "Previous item of this task", run: (page) => page.back() },
    { group: "Go", keys: ["P"], says: "Pause: hides the item and stops the clock", run: (page) => page.pause() },
    { group: "Go", keys: ["S"], says: "Save a progress file (to go on elsewhere)", run: (page) => page.saveFile() },
    { group: "Go", keys: ["H", "?"], says: "This sheet", run: (page) => page.help() },
    ...Turing.VIEW_COMMANDS.map((command) => ({ ...command, run: (page, event) => command.run(page.views, event) })),
  ];

  /** The answer keys of one task that Questions.press reads: [keys, what they do]. */
  function answerKeys(task) {
    const rows = [], range = task.scale || task.confidence;
    if (range) rows.push([[`${range.min}–${range.max === 10 ? "9, 0" : range.max}`], `${task.scale ? "Rating" : "Confidence"}${range.max === 10 ? " (0 is 10)" : ""}`]);
    const letters = task.choices ? Turing.choiceKeys(task.choices, Turing.takenLetters) : [];
    letters.forEach((letter, index) => { if (letter) rows.push([[letter], `Choice: ${task.choices[index]}`]); });
    if (task.findings) rows.push([["Y", "N"], "Findings: present, absent; then the next row"], [["M"], "Findings: mark the rest absent"]);
    return rows;
  }

  /** Letters that commands hold, so that no choice takes them. */
  Turing.takenLetters = Turing.COMMANDS.flatMap((command) => command.keys).filter((key) => /^[A-Z]$/.test(key)).concat(["Y", "N", "M"]);

  const ENTRIES = new Map(Turing.COMMANDS.flatMap((command) => command.keys.map((key) => [key, command])));

  /** Whether the focused control wants this key for itself. */
  function controlWants(target, key) {
    if (target.matches("textarea, input:not([type=radio])")) return true;
    if (target.matches("button, select, a") && (key === "Enter" || key === " ")) return true;
    return target.matches("input[type=radio]") && (key.startsWith("Arrow") || key === " ");
  }

  /** Listen for a reading page's keys until the returned function is called. */
  Turing.listen = function (page) {
    const listener = (event) => {
      const { target, key } = event;
      if (key === "Enter" && (event.ctrlKey || event.metaKey) && !Turing.dialogOpen()) return page.forward();
      if (Turing.dialogOpen() || event.ctrlKey || event.altKey || event.metaKey || event.isComposing) return;
      if (key === "Escape" && target.matches("textarea")) return Turing.focusPictures();
      if (controlWants(target, key)) return;
      const single = key.length === 1;
      if (single && !Turing.settings.values.shortcuts && key !== "?") return;
      const command = ENTRIES.get(Turing.keyName(event));
      if (command && !(command.when && !command.when(page.task))) {
        event.preventDefault();
        if (page.ready || command.group === "Go") command.run(page, event);
      } else if (page.ready && !event.repeat && page.questions.press(key)) event.preventDefault();
    };
    document.addEventListener("keydown", listener);
    return () => document.removeEventListener("keydown", listener);
  };

  /** The help sheet: the task's instructions, the keys that work in it, and what the mouse does. */
  Turing.helpSheet = function (task, closed) {
    const commands = Turing.COMMANDS.filter((command) => command.says && !(command.when && !command.when(task)));
    const tables = Turing.commandTables(commands, { Answer: answerKeys(task) });
    const setting = (name, label, on, off) => {
      const box = el("input", { type: "checkbox", id: `set-${name}`, on: { change: () => Turing.settings.set(name, box.checked ? on : off) } });
      box.checked = Turing.settings.values[name] === on;
      return el("label", { class: "tick" }, box, label);
    };
    return Turing.dialog({
      id: "help", title: "Help",
      body: [
        ...Turing.paragraphs(task.instructions),
        el("div", { class: "keys" }, ...tables),
        el("div", { class: "row" }, setting("shortcuts", "Single-key shortcuts (switch off for speech input)", true, false),
          setting("theme", "Light page (the pictures stay on black)", "light", "dark")),
      ],
      buttons: [{ label: "Close", primary: true, click: closed }],
    });
  };
})();
