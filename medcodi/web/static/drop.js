// A place to drop a film, or to choose one: it is sent as it is, and the answer says whether it was taken.
export default {
  template: `
    <div class="drop" :id="id" :class="{ over, full: name }" @dragover.prevent="over = true" @dragleave="over = false" @drop.prevent="dropped">
      <label :for="id + '-file'"><strong>{{ title }}</strong> <span>{{ busy ? "sending …" : name || "drop a film, or choose one" }}</span></label>
      <input :id="id + '-file'" ref="file" type="file" :accept="accept" @change="chosen">
      <button v-if="name" type="button" :aria-label="'Remove the ' + title" @click="remove">Remove</button>
      <p v-if="message" class="refusal" role="alert">{{ message }}</p>
    </div>`,
  props: { id: String, title: String, url: String, accept: String, maxBytes: Number, shown: String },
  data() {
    return { name: this.shown || "", over: false, busy: false, message: "" };
  },
  watch: {
    shown(value) {
      this.name = value || "";
      this.message = "";
    },
  },
  methods: {
    dropped(event) {
      this.over = false;
      if (event.dataTransfer.files.length) this.send(event.dataTransfer.files[0]);
    },
    chosen() {
      if (this.$refs.file.files.length) this.send(this.$refs.file.files[0]);
    },
    async send(file) {
      this.$refs.file.value = ""; // the same file may be chosen again
      if (file.size > this.maxBytes) return this.refuse(`${file.name} is too large. Expected at most ${Math.round(this.maxBytes / 2 ** 20)} MiB.`);
      this.busy = true;
      try {
        const answer = await fetch(window.path_prefix + this.url, { method: "POST", body: file, headers: { "X-File-Name": encodeURIComponent(file.name) } });
        const { name, message } = answer.ok ? await answer.json() : { message: await answer.text() };
        if (message) return this.refuse(message);
        Object.assign(this, { name, message: "" });
        this.$emit("taken", name);
      } catch {
        this.refuse("The connection was lost. Fix: send the file again.");
      } finally {
        this.busy = false;
      }
    },
    refuse(message) {
      this.message = message;
    },
    remove() {
      Object.assign(this, { name: "", message: "" });
      this.$emit("removed");
    },
  },
};
