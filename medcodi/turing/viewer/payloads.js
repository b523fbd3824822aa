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

  /**
   * Grey values from 0 to 65535 of a grey PNG. Not by way of a canvas: it has 8 bits, and private windows of some browsers alter
   * what is read back from it.
   */
  async function greyOf(png, { width, height, bits }) {
    if (typeof DecompressionStream === "undefined") throw new Error("this browser is too old; use Chromium 80, Firefox 113, Safari 16.4 or later");
    // The compressed rows: the contents of the IDAT chunks.
    const view = new DataView(png.buffer), parts = [];
    for (let at = 8, size; at + 12 <= png.length; at += 12 + size) {
      size = view.getUint32(at);
      if (view.getUint32(at + 4) === 0x49444154) parts.push(png.subarray(at + 8, at + 8 + size));
    }
    const rows = new Blob(parts).stream().pipeThrough(new DecompressionStream("deflate"));
    const data = new Uint8Array(await new Response(rows).arrayBuffer());
    // One row is the number of its filter, then its bytes.
    const deep = bits > 8 ? 2 : 1, length = width * deep;
    if (data.length !== height * (length + 1)) throw new Error(`${data.length} bytes where ${height * (length + 1)} were expected`);
    let above = new Uint8Array(length);
    const pixels = new Uint16Array(width * height), factor = 65535 / (2 ** bits - 1);
    for (let row = 0; row < height; row++) {
      const start = row * (length + 1) + 1;
      const line = data.subarray(start, start + length);
      unfilter(line, above, data[start - 1], deep);
      for (let i = 0; i < width; i++) {
        const level = deep === 2 ? (line[2 * i] << 8) | line[2 * i + 1] : line[i];
        pixels[row * width + i] = Math.round(level * factor);
      }
      above = line;
    }
    return pixels;
  }

  /** Undo the filter of a row (PNG specification, 9.2): add to each byte what its neighbours predict. */
  function unfilter(line, above, filter, deep) {
    for (let i = 0; i < line.length; i++) {
      const left = i < deep ? 0 : line[i - deep], up = above[i], corner = i < deep ? 0 : above[i - deep];
      if (filter === 1) line[i] += left;
      else if (filter === 2) line[i] += up;
      else if (filter === 3) line[i] += (left + up) >> 1;
      else if (filter === 4) {
        const toLeft = Math.abs(up - corner), toUp = Math.abs(left - corner), toCorner = Math.abs(left + up - 2 * corner);
        line[i] += toLeft <= toUp && toLeft <= toCorner ? left : toUp <= toCorner ? up : corner;
      }
    }
  }

  async function decode(content) {
    if (content.kind === "image") {
      const { width, height } = content;
      return { kind: "image", width, height, pixels: await greyOf(bytesOf(content.data), content) };
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
