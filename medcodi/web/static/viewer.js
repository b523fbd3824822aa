// The viewer of films as an element of the page: panels side by side, their toolbar and keys, comparisons with a line to move.
const WINDOWS = [
  { name: "Full", lo: 0, hi: 65535 },
  { name: "Lung", lo: 0, hi: 39000 },
  { name: "Bone", lo: 22000, hi: 65535 },
];
const films = new Map(); // address -> promise of its pixels; the last ones
const KEPT = 48;

/** A film of the server: its head says size and bits (PNG specification, 11.2.2). */
async function read(url) {
  const answer = await fetch(url);
  if (!answer.ok) throw new Error(answer.status === 404 ? "this film is no longer there" : `the server answered ${answer.status}`);
  const png = new Uint8Array(await answer.arrayBuffer());
  const head = new DataView(png.buffer);
  const size = { width: head.getUint32(16), height: head.getUint32(20), bits: png[24] };
  return { kind: "image", width: size.width, height: size.height, pixels: await Turing.greyOf(png, size) };
}

function film(url) {
  if (!films.has(url)) films.set(url, read(url));
  for (const old of films.keys()) {
    if (films.size <= KEPT) break;
    films.delete(old);
  }
  return films.get(url);
}

export default {
  template: `<div class="viewer" role="group" :aria-label="label" @keydown="press"></div>`,
  props: { panels: Array, label: String, empty: String },
  mounted() {
    this.$nextTick(() => this.show());
  },
  unmounted() {
    if (this.views) this.views.dispose();
  },
  watch: {
    panels: {
      deep: true,
      handler() {
        this.show();
      },
    },
  },
  methods: {
    /** Lay the panels out, then fetch what they show. Window and place stay while the films are of one kind. */
    async show() {
      const { el } = Turing, round = (this.round = (this.round || 0) + 1);
      if (this.views) this.views.dispose();
      if (!this.panels.length) {
        this.views = null;
        this.$el.replaceChildren(el("p", { class: "viewer-empty" }, this.empty));
        return;
      }
      const before = this.views && this.views.current;
      const views = (this.views = new Turing.Views(this.panels, WINDOWS, () => this.tools && this.tools.refresh()));
      this.tools = new Turing.Toolbar(views);
      this.$el.replaceChildren(views.element, this.tools.element);
      try {
        const payloads = await Promise.all(this.panels.map((panel) => this.payload(panel)));
        if (round !== this.round) return; // a newer result is being shown
        views.fill(payloads);
        if (before) views.apply((picture) => picture.setWindow(before.lo, before.hi, before.invert));
        views.views.forEach((view, index) => payloads[index].after && this.addLine(view));
        this.$emit("shown", performance.now());
      } catch (error) {
        if (round === this.round) this.$el.replaceChildren(el("p", { class: "viewer-empty", role: "alert" }, `A film cannot be shown: ${error.message}.`));
      }
    },
    async payload(panel) {
      if (panel.kind === "text") return panel;
      const [picture, after] = await Promise.all([panel.before || panel.film, panel.after].map((url) => url && film(window.path_prefix + url)));
      return after ? { ...picture, after } : picture;
    },
    /** The line of a comparison, moved by a slider below it: by mouse, touch or arrow keys. */
    addLine(view) {
      const { el } = Turing;
      const slider = el("input", { type: "range", min: "0", max: "100", value: "50", "aria-label": `${view.name}: line between before and after` });
      slider.addEventListener("input", () => {
        view.picture.share = slider.value / 100;
        view.picture.draw();
      });
      view.element.append(el("div", { class: "line" }, el("span", {}, "Before"), slider, el("span", {}, "After")));
    },
    help() {
      const tables = Turing.commandTables(Turing.VIEW_COMMANDS.filter((command) => command.says));
      Turing.dialog({ id: "help", title: "Keys of the viewer", body: [Turing.el("div", { class: "keys" }, ...tables)], buttons: [{ label: "Close", primary: true }] });
    },
    /** Keys of the pictures, where no control wants them for itself. */
    press(event) {
      if (!this.views || event.ctrlKey || event.altKey || event.metaKey || event.target.matches("input, textarea")) return;
      const name = Turing.keyName(event);
      if (name === "H" || name === "?") return this.help();
      const command = Turing.VIEW_COMMANDS.find(({ keys }) => keys.includes(name));
      if (!command) return;
      event.preventDefault();
      event.stopPropagation();
      command.run(this.views, event);
    },
  },
};
