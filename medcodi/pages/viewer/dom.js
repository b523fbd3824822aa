// Making elements, paragraphs, downloads and announcements. Text is always set as text: a study cannot inject markup.
"use strict";
var Turing = Turing || {};

(function () {
  /**
   * An element with attributes, listeners and children.
   * @param {string} tag
   * @param {Object} attributes - `on` holds listeners; true sets an empty attribute; false, null and undefined set none.
   * @param {...(Node|string|null)} children
   */
  Turing.el = function (tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name === "on") for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
      else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value === true ? "" : value);
    }
    element.append(...children.filter((child) => child !== null && child !== undefined));
    return element;
  };

  /** A button; `key` is shown as its shortcut and told to assistive technology. */
  Turing.button = function (label, { key = null, primary = false, title = null, pressed = null, id = null, click }) {
    return Turing.el(
      "button",
      {
        type: "button", id, title, class: primary ? "primary" : null, "aria-keyshortcuts": key,
        "aria-pressed": pressed === null ? null : String(pressed), on: { click },
      },
      label,
      key ? Turing.el("kbd", { "aria-hidden": "true" }, key) : null,
    );
  };

  /** Plain text with blank lines between paragraphs, as paragraphs. */
  Turing.paragraphs = (text) =>
    (text || "").split(/\n\s*\n/).filter((part) => part.trim()).map((part) => Turing.el("p", {}, part.trim()));

  /** Say it to a screen reader without moving the focus. */
  Turing.announce = function (text) {
    document.getElementById("announcer").textContent = text;
  };

  /** Hand a JSON file to the browser's download folder. */
  Turing.download = function (name, value) {
    const url = URL.createObjectURL(new Blob([JSON.stringify(value, null, 1)], { type: "application/json" }));
    const link = Turing.el("a", { href: url, download: name });
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(url), 60000);
  };

  /** A modal dialog over the page; the focus stays inside and returns where it was. Escape presses the last button. */
  Turing.dialog = function ({ title, body, buttons, id }) {
    const before = document.activeElement;
    const close = () => {
      box.close();
      box.remove();
      if (before && before.isConnected) before.focus();
    };
    const made = buttons.map(({ label, primary, click }) =>
      Turing.button(label, { primary, click: () => { close(); if (click) click(); } }));
    const box = Turing.el(
      "dialog",
      { class: "sheet", id, "aria-labelledby": `${id}-title` },
      Turing.el("h2", { id: `${id}-title`, tabindex: "-1" }, title),
      ...body,
      Turing.el("div", { class: "row" }, ...made),
    );
    box.addEventListener("cancel", (event) => { event.preventDefault(); made[made.length - 1].click(); });
    document.getElementById("overlays").append(box);
    box.showModal();
    (made.find((button) => button.classList.contains("primary")) || made[0]).focus();
    return { close, box };
  };

  /** Whether a dialog is open: shortcuts of the page below rest meanwhile. */
  Turing.dialogOpen = () => document.querySelector("dialog[open]") !== null;

  /** Settings of this browser, not of the study: theme and shortcuts. Kept where the browser allows it. */
  Turing.settings = {
    values: { theme: "dark", shortcuts: true },
    load() {
      try {
        Object.assign(this.values, JSON.parse(localStorage.getItem("medcodi-turing/settings") || "{}"));
      } catch { /* a browser that stores nothing: the defaults apply */ }
      document.documentElement.dataset.theme = this.values.theme === "light" ? "light" : "dark";
    },
    set(name, value) {
      this.values[name] = value;
      try {
        localStorage.setItem("medcodi-turing/settings", JSON.stringify(this.values));
      } catch { /* as above */ }
      this.load();
    },
  };
})();
