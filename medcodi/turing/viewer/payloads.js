// Pictures and texts, read from script files beside this page: the one way of reading data that works from file://.
"use strict";
var Turing = Turing || {};

(function () {
  const waiting = new Map(); // payload id -> {resolve, reject}

  /** Called by every payload file with its own id and content. */
  window.MEDCODI_PAYLOAD = function (id, content) {
    const entry = waiting.get(id);
    if (!entry) return;
    waiting.delete(id);
    decode(content).then(entry.resolve, (error) => entry.reject(new Error(`payloads/${id}.js is damaged: ${error.message}`)));
  };

  /** Bytes of a base64 text. */
  function bytesOf(base64) {
    const raw = atob(base64), bytes = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
    return bytes;
  }

  async function decode(content) {
    if (content.kind === "image") {
      const { width, height } = content;
      return { kind: "image", width, height, pixels: await Turing.greyOf(bytesOf(content.data), content) };
    }
    return { kind: "text", text: new TextDecoder("utf-8").decode(bytesOf(content.data)).trimEnd() };
  }

  /** Payloads by id, the last few kept; asking for one already under way does not read it twice. */
  Turing.Payloads = class {
    /** @param {number} keep - How many decoded payloads stay in memory. */
    constructor(folder = "payloads", keep = 16) {
      this.folder = folder;
      this.keep = keep;
      this.cache = new Map(); // id -> promise, least recently used first
    }

    /** The decoded payload; rejects with a sentence for the reader if the file is missing or damaged. */
    get(id) {
      const known = this.cache.get(id);
      this.cache.delete(id);
      const promise = known || this.read(id);
      this.cache.set(id, promise);
      promise.catch(() => this.cache.delete(id)); // a retry reads the file anew
      for (const old of this.cache.keys()) {
        if (this.cache.size <= this.keep) break;
        this.cache.delete(old);
      }
      return promise;
    }

    read(id) {
      return new Promise((resolve, reject) => {
        waiting.set(id, { resolve, reject });
        const script = document.createElement("script");
        const fail = (what) => {
          if (waiting.delete(id)) reject(new Error(`${this.folder}/${id}.js is ${what}`));
        };
        script.onload = () => { script.remove(); fail("damaged: it holds no payload"); };
        script.onerror = () => { script.remove(); fail("missing or cannot be read"); };
        script.src = `${this.folder}/${encodeURIComponent(id)}.js`;
        document.head.append(script);
      });
    }
  };
})();
