// Canonical JSON and SHA-256: they show that a results file was not edited.
// The browser's own digest (crypto.subtle) is missing on file:// pages in some browsers, hence this one.
"use strict";
var Turing = Turing || {};

(function () {
  /** The first n primes' roots, their fractional bits as 32-bit words: the constants of FIPS 180-4, section 4.2.2. */
  function rootWords(count, root) {
    const words = [];
    for (let candidate = 2; words.length < count; candidate++) {
      let prime = true;
      for (let divisor = 2; divisor * divisor <= candidate; divisor++) if (candidate % divisor === 0) prime = false;
      if (prime) words.push(Math.floor((root(candidate) % 1) * 2 ** 32) | 0);
    }
    return words;
  }

  const ROUND = rootWords(64, Math.cbrt);
  const START = rootWords(8, Math.sqrt);

  const turn = (word, bits) => (word >>> bits) | (word << (32 - bits));

  /** The message, a one bit, zeros, and its length in bits: a whole number of 64-byte blocks. */
  function padded(bytes) {
    const out = new Uint8Array(Math.ceil((bytes.length + 9) / 64) * 64);
    out.set(bytes);
    out[bytes.length] = 0x80;
    const view = new DataView(out.buffer);
    view.setUint32(out.length - 8, Math.floor(bytes.length / 2 ** 29));
    view.setUint32(out.length - 4, (bytes.length << 3) >>> 0);
    return view;
  }

  /** One block of 64 bytes folded into the state (FIPS 180-4, section 6.2.2). */
  function fold(state, view, offset, w) {
    for (let i = 0; i < 16; i++) w[i] = view.getInt32(offset + 4 * i);
    for (let i = 16; i < 64; i++) {
      const s0 = turn(w[i - 15], 7) ^ turn(w[i - 15], 18) ^ (w[i - 15] >>> 3);
      const s1 = turn(w[i - 2], 17) ^ turn(w[i - 2], 19) ^ (w[i - 2] >>> 10);
      w[i] = (w[i - 16] + s0 + w[i - 7] + s1) | 0;
    }
    let [a, b, c, d, e, f, g, h] = state;
    for (let i = 0; i < 64; i++) {
      const big1 = turn(e, 6) ^ turn(e, 11) ^ turn(e, 25);
      const one = (h + big1 + ((e & f) ^ (~e & g)) + ROUND[i] + w[i]) | 0;
      const big0 = turn(a, 2) ^ turn(a, 13) ^ turn(a, 22);
      const two = (big0 + ((a & b) ^ (a & c) ^ (b & c))) | 0;
      h = g; g = f; f = e; e = (d + one) | 0;
      d = c; c = b; b = a; a = (one + two) | 0;
    }
    return [a, b, c, d, e, f, g, h].map((word, i) => (word + state[i]) | 0);
  }

  /** SHA-256 of a text's UTF-8 bytes, as 64 hexadecimal digits. */
  Turing.sha256 = function (text) {
    const view = padded(new TextEncoder().encode(text));
    const schedule = new Int32Array(64);
    let state = START;
    for (let offset = 0; offset < view.byteLength; offset += 64) state = fold(state, view, offset, schedule);
    return state.map((word) => (word >>> 0).toString(16).padStart(8, "0")).join("");
  };

  /** JSON with keys sorted (by UTF-16 unit) and no spaces: one text per value; medcodi/turing/bundle/canonical.py writes the same. */
  Turing.canonical = function (value) {
    if (Array.isArray(value)) return `[${value.map(Turing.canonical).join(",")}]`;
    if (value === null || typeof value !== "object") return JSON.stringify(value);
    const keys = Object.keys(value).sort();
    return `{${keys.map((key) => `${JSON.stringify(key)}:${Turing.canonical(value[key])}`).join(",")}}`;
  };

  /** The checksum of a result: of everything in it but the checksum itself. */
  Turing.checksumOf = function (result) {
    const rest = { ...result };
    delete rest.checksum;
    return Turing.sha256(Turing.canonical(rest));
  };

  /** The result with its checksum. */
  Turing.seal = (result) => ({ ...result, checksum: Turing.checksumOf(result) });

  /** A text that UTF-8 can hold: halves of surrogate pairs become U+FFFD. */
  Turing.wellFormed = (text) =>
    text.replace(/[\uD800-\uDBFF][\uDC00-\uDFFF]|[\uD800-\uDFFF]/g, (found) => (found.length === 2 ? found : "\uFFFD"));
})();
