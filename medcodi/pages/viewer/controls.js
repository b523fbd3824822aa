// What moves the pictures: the commands of the keyboard, what the mouse does, and the toolbar.
"use strict";
var Turing = Turing || {};

(function () {
  const { el, button } = Turing;

  // keys as in KeyboardEvent.key (letters in upper case), what the help says, and what it does to the views.
  Turing.VIEW_COMMANDS = [
    { group: "Grey values", keys: ["W"], says: "Next window preset (Shift: the one before)", run: (views, event) => views.nextPreset(event.shiftKey ? -1 : 1) },
    { group: "Grey values", keys: ["["], says: "Narrower window: more contrast", run: (views) => views.windowBy(0, -2000) },
    { group: "Grey values", keys: ["]"], says: "Wider window: less contrast", run: (views) => views.windowBy(0, 2000) },
    { group: "Grey values", keys: [","], says: "Darker", run: (views) => views.windowBy(1000, 0) },
    { group: "Grey values", keys: ["."], says: "Brighter", run: (views) => views.windowBy(-1000, 0) },
    { group: "Grey values", keys: ["I"], says: "Invert", run: (views) => views.invert() },
    { group: "View", keys: ["+", "="], says: "Zoom in (a report: larger letters)", run: (views) => views.zoomBy(1.25) },
    { group: "View", keys: ["-"], says: "Zoom out (a report: smaller letters)", run: (views) => views.zoomBy(0.8) },
    { group: "View", keys: ["F"], says: "Fit the whole picture", run: (views) => views.apply((picture) => picture.fit()) },
    { group: "View", keys: ["O"], says: "One to one: a picture pixel on a screen pixel", run: (views) => views.apply((picture) => picture.oneToOne()) },
    { group: "Grey values", keys: ["Shift+ArrowLeft"], says: "Narrower, wider, brighter, darker, on any keyboard", run: (views) => views.windowBy(0, -2000), shown: ["Shift", "ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"] },
    { group: "Grey values", keys: ["Shift+ArrowRight"], run: (views) => views.windowBy(0, 2000) },
    { group: "Grey values", keys: ["Shift+ArrowUp"], run: (views) => views.windowBy(-1000, 0) },
    { group: "Grey values", keys: ["Shift+ArrowDown"], run: (views) => views.windowBy(1000, 0) },
    { group: "View", keys: ["ArrowLeft"], says: "Move left", run: (views) => views.panBy(-0.08, 0) },
    { group: "View", keys: ["ArrowRight"], says: "Move right", run: (views) => views.panBy(0.08, 0) },
    { group: "View", keys: ["ArrowUp"], says: "Move up", run: (views) => views.panBy(0, -0.08) },
    { group: "View", keys: ["ArrowDown"], says: "Move down", run: (views) => views.panBy(0, 0.08) },
    { group: "View", keys: ["Home"], says: "Reset window, zoom and place", run: (views) => views.reset() },
    { group: "View", keys: ["L"], says: "Link the views, or let each move on its own", run: (views) => views.toggleLink() },
    { group: "View", keys: ["V"], says: "Next panel", run: (views) => views.activateNext() },
  ];

  Turing.MOUSE = [
    ["Drag", "Window and level: right widens, up brightens"],
    ["Wheel, pinch", "Zoom at the pointer"],
    ["Shift + drag, right button, two fingers", "Move"],
    ["Double click", "Fit, or one to one"],
  ];

  Turing.KEY_NAMES = { ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓", PageDown: "Page ↓", PageUp: "Page ↑" };

  /** Tables of what keys and mouse do, one a group; `more` holds rows [keys, what they do] that come first in a group. */
  Turing.commandTables = function (commands, more = {}) {
    const row = (keys, says) => el("tr", {}, el("th", { scope: "row" }, ...keys.map((key) => el("kbd", {}, Turing.KEY_NAMES[key] || key))), el("td", {}, says));
    const table = (title, rows) => el("section", {}, el("h3", {}, title), el("table", {}, ...rows));
    const tables = [...new Set(commands.map((command) => command.group))].map((group) => table(group, [
      ...(more[group] || []).map(([keys, says]) => row(keys, says)),
      ...commands.filter((command) => command.group === group).map((command) => row(command.shown || command.keys, command.says)),
    ]));
    return [...tables, table("Mouse and touch", Turing.MOUSE.map(([keys, says]) => row([keys], says)))];
  };

  /** Name of a key in the tables of commands. */
  Turing.keyName = ({ key, shiftKey }) => (key.length === 1 ? key.toUpperCase() : shiftKey && key.startsWith("Arrow") ? `Shift+${key}` : key);

  /** The toolbar of some views: window presets, invert, zoom, reset, link, and the window in numbers. */
  Turing.Toolbar = class {
    /** @param {Turing.Views} views - Whoever makes them calls `refresh` after every change. */
    constructor(views) {
      this.views = views;
      const tool = (label, key, click, title, pressed = null) => button(label, { key, click, title, pressed });
      this.presets = views.windows.map(({ name }, index) => tool(name, null, () => views.preset(index), `Window ${name}`, false));
      this.invertTool = tool("Invert", "I", () => views.invert(), "Invert the grey values", false);
      this.linkTool = tool("Linked", "L", () => views.toggleLink(), "Window, zoom and place of all views together", true);
      this.readout = el("output", { class: "readout", "aria-label": "Window and zoom" });
      const pictures = views.views.filter(({ panel }) => panel.kind !== "text").length;
      const tools = [
        el("span", { class: "group", role: "group", "aria-label": "Window presets" }, el("kbd", { "aria-hidden": "true" }, "W"), ...this.presets),
        this.invertTool,
        el("span", { class: "group", role: "group", "aria-label": "Zoom" },
          tool("−", null, () => views.zoomBy(0.8), "Zoom out"), tool("+", null, () => views.zoomBy(1.25), "Zoom in"),
          tool("Fit", "F", () => views.apply((picture) => picture.fit()), "Fit the whole picture"),
          tool("1:1", "O", () => views.apply((picture) => picture.oneToOne()), "A picture pixel on a screen pixel")),
        tool("Reset", "Home", () => views.reset(), "Window, zoom and place as at the start"),
        pictures > 1 ? this.linkTool : null, el("span", { class: "grow" }), this.readout,
      ];
      this.element = el("div", { class: "tools", role: "toolbar", "aria-label": "Picture tools" }, ...(pictures ? tools : []));
    }

    refresh() {
      const { views } = this, picture = views.current, chosen = views.presetIndex;
      this.presets.forEach((each, index) => each.setAttribute("aria-pressed", String(index === chosen)));
      this.linkTool.setAttribute("aria-pressed", String(views.linked));
      this.invertTool.setAttribute("aria-pressed", String(Boolean(picture && picture.invert)));
      this.readout.textContent = picture ? `W ${picture.hi - picture.lo}  L ${Math.round((picture.lo + picture.hi) / 2)}  ${Math.round(picture.scale * 100)} %` : "";
    }
  };
})();
