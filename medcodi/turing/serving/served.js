// Answers of a served study: sent to the server after every change, and taken up from there. An offline bundle lacks this file.
"use strict";
var Turing = Turing || {};

(function () {
  const PAUSE = 1000; // milliseconds between two sendings
  const RETRY = 3000; // milliseconds until what failed is sent again
  const KEEPALIVE = 60000; // bytes that a page which is being closed may still send

  const given = (record) => new Map(record.answers.map(({ trial, value, free_text }) => [trial, Turing.canonical({ value, free_text })]));

  /** Whether `here` holds an answer that `there` does not hold. */
  function holdsMore(here, there) {
    const known = given(there);
    return [...given(here)].some(([trial, answer]) => known.get(trial) !== answer);
  }

  Turing.server = {
    base: "", // checksum of the server's version that this page builds on; "": none
    // {checksum, body}: on its way, sent unchanged until the server replies, which may have stored it before the line broke.
    // The text, not the result: that shares its sessions with the state, which goes on changing.
    sending: null,
    due: false, // whether something has changed since
    busy: false,
    waiting: [], // resolved when everything is delivered
    wake: () => {}, // ends a pause

    /** Take up the newest answers. Returns whether there are any, here or on the server. */
    load(session, stored) {
      const record = MEDCODI_SERVED;
      this.base = record ? record.checksum : "";
      if (!record) return stored;
      // This browser wrote the server's version, or what it wrote last was stored: it is up to date, or ahead.
      const { base, sent, dirty } = this.noted(session);
      if (stored && [base, sent].includes(record.checksum)) return true;
      // The session went on elsewhere.
      const here = stored && dirty ? session.result() : null;
      session.adopt(record);
      this.note(session);
      if (here && holdsMore(here, record)) this.offerCopy(session, here, record);
      return true;
    },

    /** Send what has changed. A page that is only looked at sends nothing. */
    save(session) {
      if (!session.open || !session.state.consent) return;
      this.due = true;
      this.note(session);
      if (!this.busy) this.send(session);
    },

    /** Resolves when the server has everything. */
    delivered(session) {
      if (!this.busy) this.save(session);
      return new Promise((resolve) => this.waiting.push(resolve));
    },

    async send(session) {
      this.busy = true;
      while ((this.due || this.sending) && !session.frozen) {
        if (!this.sending) {
          const result = session.result();
          this.sending = { checksum: result.checksum, body: JSON.stringify(result, null, 1) };
          this.due = false;
        }
        this.note(session);
        const outcome = await this.put(session);
        if (outcome === "stored" && !this.due) {
          for (const resolve of this.waiting.splice(0)) resolve();
          break;
        }
        if (outcome === "refused") break;
        await this.pause(outcome === "stored" ? PAUSE : RETRY);
      }
      this.busy = false;
    },

    /** One sending: "stored", "refused" for good, or "failed", to be repeated. */
    async put(session) {
      const { body } = this.sending, keepalive = new Blob([body]).size < KEEPALIVE;
      let reply;
      try {
        reply = await fetch("answers", {
          method: "PUT", body, keepalive, headers: { "Content-Type": "application/json", "If-Match": `"${this.base}"` },
        });
      } catch {
        this.tell("The server of the study does not answer. Your answers are stored in this browser and will be sent: keep this page open.");
        return "failed";
      }
      if (reply.ok) {
        this.base = this.sending.checksum;
        this.sending = null;
        this.note(session);
        this.tell("");
        return "stored";
      }
      if (reply.status === 412) { // another tab or computer has written since
        this.tell("");
        Turing.app.elsewhere();
        return "refused";
      }
      this.tell(`Not stored on the server: ${(await reply.text()).trim()}`);
      if (reply.status >= 500) return "failed";
      this.sending = null; // the next change is sent anew
      this.due = false;
      return "refused";
    },

    pause(milliseconds) {
      return new Promise((resolve) => {
        this.wake = resolve;
        setTimeout(resolve, milliseconds);
      });
    },

    /** A line over every page, where something has not reached the server; "" takes it away. */
    tell(text) {
      let line = document.getElementById("server-note");
      if (!line) document.body.append(line = Turing.el("p", { id: "server-note", class: "note", role: "status" }));
      if (line.textContent !== text) line.textContent = text;
    },

    /** How this browser stands to the server: what was stored last, what was sent after it, and whether more is to be sent. */
    note(session) {
      const { base, due, sending } = this;
      try {
        localStorage.setItem(`${session.storageKey}/served`, JSON.stringify({ base, sent: sending ? sending.checksum : "", dirty: due || Boolean(sending) }));
      } catch { /* a browser that stores nothing: the server has what it confirmed */ }
    },

    noted(session) {
      try {
        return JSON.parse(localStorage.getItem(`${session.storageKey}/served`)) || {};
      } catch {
        return {};
      }
    },

    /** The server's answers replace those of this browser, some of which it never received. */
    offerCopy(session, here, record) {
      Turing.dialog({
        id: "unsent", title: "The session went on elsewhere",
        body: [Turing.el("p", {}, `The server has ${record.answers.length} answers of yours, given in another browser or on another computer; they are used. `
          + `This browser holds ${here.answers.length}, and some of them never reached the server.`)],
        buttons: [
          { label: "Save a copy of this browser's answers", click: () => Turing.download(session.fileName, here) },
          { label: "Continue", primary: true },
        ],
      });
    },
  };

  // A page that is being closed sends its last change at once, and warns if the server has not stored everything.
  window.addEventListener("pagehide", () => Turing.server.wake());
  window.addEventListener("beforeunload", (event) => {
    const line = document.getElementById("server-note");
    if (line && line.textContent) event.preventDefault();
  });
})();
