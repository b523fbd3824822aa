// A grey PNG of 8 or 16 bits, decoded to all its grey values.
"use strict";
var Turing = Turing || {};

(function () {
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

  /**
   * Grey values from 0 to 65535 of a grey PNG. Not by way of a canvas: it has 8 bits, and private windows of some browsers alter
   * what is read back from it.
   */
  Turing.greyOf = async function (png, { width, height, bits }) {
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
  };
})();
