// Two pictures of one size, one before and one after: a line that can be moved parts them.
"use strict";
var Turing = Turing || {};

(function () {
  Turing.Comparison = class extends Turing.Picture {
    /**
     * @param {HTMLCanvasElement} canvas - As of a picture.
     * @param {{width: number, height: number, pixels: Uint16Array}} before - At the left of the line.
     * @param {{width: number, height: number, pixels: Uint16Array}} after - At its right; of the same size.
     */
    constructor(canvas, before, after) {
      super(canvas, before);
      this.after = new Turing.Picture(document.createElement("canvas"), after);
      this.share = 0.5; // of the width that shows the picture before
    }

    draw() {
      super.draw();
      const { context, canvas, after } = this, edge = Math.round(this.share * canvas.width);
      // The picture after, through the same window, over the right of the line.
      const stale = after.lo !== this.lo || after.hi !== this.hi || after.invert !== this.invert;
      Object.assign(after, { lo: this.lo, hi: this.hi, invert: this.invert, stale: after.stale || stale });
      after.expose();
      context.save();
      context.beginPath();
      context.rect(edge, 0, canvas.width - edge, canvas.height);
      context.clip();
      context.fillRect(edge, 0, canvas.width - edge, canvas.height);
      this.place(after.film);
      context.restore();
      context.fillStyle = "#7db4ff";
      context.fillRect(edge - 1, 0, 2, canvas.height);
    }
  };
})();
