// The display check: faint digits on black, mid-grey and white, readable only on a screen that shows the whole range.
"use strict";
var Turing = Turing || {};

(function () {
  const { el, button, paragraphs } = Turing;

  // Zone, its grey level and the step of its digits, of 255. Near black a step counts less on a common (sRGB) screen.
  const ZONES = [
    { name: "black", ground: 0, step: 18 },
    { name: "mid-grey", ground: 118, step: 7 },
    { name: "white", ground: 255, step: -9 },
  ];
  const DIGITS = 2; // per zone

  function drawZones(canvas, digits) {
    const context = canvas.getContext("2d", { alpha: false });
    const width = canvas.width / ZONES.length, grey = (level) => `rgb(${level},${level},${level})`;
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.font = `bold ${Math.round(canvas.height * 0.42)}px sans-serif`;
    ZONES.forEach(({ ground, step }, zone) => {
      context.fillStyle = grey(ground);
      context.fillRect(zone * width, 0, width, canvas.height);
      context.fillStyle = grey(ground + step);
      context.fillText(digits.slice(zone * DIGITS, (zone + 1) * DIGITS), (zone + 0.5) * width, canvas.height / 2);
    });
  }

  /**
   * The display check: six faint digits to read. Failing is recorded, and does not end the session.
   * @param {string} text - Instructions of the study.
   * @param {function(boolean, string)} done - Whether it was passed, and what was typed.
   */
  Turing.displayCheck = function (text, done) {
    const digits = Array.from({ length: ZONES.length * DIGITS }, () => Math.floor(Math.random() * 10)).join("");
    const canvas = el("canvas", {
      width: "1200", height: "260", class: "check", role: "img",
      "aria-label": "Six faint digits: two on black, two on mid-grey, two on white. They test the screen and are given nowhere else.",
    });
    const input = el("input", { type: "text", id: "digits", inputmode: "numeric", autocomplete: "off", maxlength: "12", size: "8" });
    const said = el("div", { role: "alert" });
    let tries = 0;
    const check = () => {
      const answer = input.value.replace(/\D/g, "");
      if (answer === digits) return done(true, answer);
      if (++tries > 1) skip.hidden = false;
      const zones = ZONES.filter((_, zone) => answer.slice(zone * DIGITS, (zone + 1) * DIGITS) !== digits.slice(zone * DIGITS, (zone + 1) * DIGITS));
      const where = answer.length === digits.length ? `The digits on ${zones.map(({ name }) => name).join(" and ")} are different.` : `Six digits are expected, ${answer.length} were typed.`;
      said.replaceChildren(el("p", { class: "note warning" }, `${where} Dim the room, raise the screen's brightness, switch night colours off, and look straight at it.`));
    };
    const skip = button("Continue without", { id: "display-skip", click: () => done(false, input.value.replace(/\D/g, "")) });
    skip.hidden = true;
    drawZones(canvas, digits);
    const small = screen.width < 1280 || screen.height < 800;
    Turing.showPage({
      name: "display", title: "Display check",
      body: [
        ...paragraphs(text), canvas,
        el("label", { for: "digits", class: "field" }, "Type the six digits, from left to right", input), said,
        small ? el("p", { class: "note warning" }, `This screen has ${screen.width} × ${screen.height} pixels; 1280 × 800 is the smallest size that this viewer supports.`) : null,
      ],
      buttons: [button("Check", { primary: true, id: "display-go", click: check }), skip],
    });
    input.focus();
    Turing.displayDigits = digits; // a test of the viewer types them; a reader has to see them
  };
})();
