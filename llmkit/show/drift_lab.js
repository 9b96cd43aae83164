// The drift lab's front end: three knobs out, words and bars in. It computes nothing that the text twin does not know.
//
// One question at a time is under way. While the hand moves, the next question is where the knobs are now; when it has
// rested for REST milliseconds, it is one more trial at the same setting, until there are enough to tell the power.

const REST = 500;

function html(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

const percent = (share) => `${+(100 * share).toPrecision(3)}%`;
const SAYS = { named: "alarm, right shard", alarm: "alarm, and no drift in that shard", quiet: "no alarm" };

class Lab {
  constructor(model, el) {
    Object.assign(this, { model, moved: 0, busy: false });
    const { kinds, shares, sizes } = (this.choices = model.get("choices"));
    this.kind = html("select", { "aria-label": "kind of drift" }, ...kinds.map(([name]) => html("option", {}, name)));
    this.share = this.slider("size of drift", shares.length);
    this.tokens = this.slider("tokens a shard", sizes.length);
    this.kindSays = html("span", { class: "says" });
    this.shareSays = html("output");
    this.tokensSays = html("output");
    this.headline = html("p", { class: "headline", role: "status" });
    this.bars = html("div", { class: "bars" });
    this.facts = html("dl");
    this.dots = html("p", { class: "dots", "aria-hidden": "true" });
    this.power = html("p", { class: "power" });
    this.root = html("section", { class: "llmkit-drift", "aria-label": "drift lab" },
      html("div", { class: "knobs" },
        html("label", {}, "kind of drift", this.kind), this.kindSays,
        html("label", {}, "size: share of the tokens", this.share), this.shareSays,
        html("label", {}, "tokens a shard, three shards", this.tokens), this.tokensSays),
      this.headline,
      html("div", { class: "below" },
        html("figure", {},
          html("figcaption", {}, "how far the shard stands out, |z|; ",
            html("b", {}, "|"), " what chance reaches in 0.5% of all dealings; ◆ touched by the drift"),
          this.bars),
        this.facts),
      this.dots, this.power);
    // without the attribute on the very element, JupyterLab takes the arrow keys from a slider
    this.root.addEventListener("focusin", ({ target }) => target.setAttribute("data-lm-suppress-shortcuts", "true"));
    this.place(model.get("shown"));
    for (const knob of [this.kind, this.share, this.tokens]) {
      knob.addEventListener("input", () => { this.moved = performance.now(); this.label(); this.ask(); });
    }
    this.answered = () => { this.busy = false; this.draw(); this.ask(); };
    model.on("change:shown", this.answered);
    el.append(this.root);
    this.draw();
    this.ask();
  }

  slider(name, count) {
    return html("input", { type: "range", min: 0, max: count - 1, step: 1, "aria-label": name });
  }

  // The knobs where the kernel's setting is: at first, and after somebody called `turn`.
  place({ kind, share, tokens }) {
    this.kind.value = kind;
    this.share.value = Math.max(0, this.choices.shares.indexOf(share));
    this.tokens.value = Math.max(0, this.choices.sizes.indexOf(tokens));
    this.label();
  }

  wanted() {
    const { shares, sizes } = this.choices;
    return { kind: this.kind.value, share: shares[this.share.value], tokens: sizes[this.tokens.value] };
  }

  label() {
    const { kind, share, tokens } = this.wanted();
    this.kindSays.textContent = this.choices.kinds.find(([name]) => name === kind)[1];
    this.shareSays.textContent = kind === "none" ? "–" : percent(share);
    this.tokensSays.textContent = tokens.toLocaleString("en");
    this.share.disabled = kind === "none";
  }

  ask() {
    clearTimeout(this.later);
    if (this.busy) return;
    const shown = this.model.get("shown"), wanted = this.wanted(), rested = performance.now() - this.moved;
    if (this.moved && Object.keys(wanted).some((knob) => wanted[knob] !== shown[knob])) this.send(wanted);
    else if (shown.trials.length >= this.choices.trials) return;
    else if (this.moved && rested >= REST) this.send({ again: 1 });
    else if (this.moved) this.later = setTimeout(() => this.ask(), REST - rested);
  }

  send(message) {
    this.busy = true;
    this.model.send(message);
  }

  draw() {
    const shown = this.model.get("shown");
    if (!this.moved) this.place(shown);
    this.root.setAttribute("data-verdict", shown.verdict);
    this.root.setAttribute("data-trials", shown.trials.length);
    this.headline.textContent = shown.headline;
    const longest = 1.08 * Math.max(...shown.bars.flatMap(({ z, limit }) => [z, limit]), 1);
    this.bars.replaceChildren(...shown.bars.map((bar) => this.bar(bar, longest)));
    this.facts.replaceChildren(...shown.facts.flatMap(([name, value]) => [html("dt", {}, name), html("dd", {}, value)]));
    this.dots.replaceChildren(...shown.trials.map((trial) => html("i", { class: trial, title: SAYS[trial] })));
    this.power.textContent = shown.power;
  }

  bar({ name, z, limit, beyond, planted, says }, longest) {
    return html("div", { class: `bar${beyond ? " beyond" : ""}`, "data-name": name, title: `${name}: ${says}` },
      html("span", { class: "name" }, planted ? "◆ " : "", name),
      html("span", { class: "track" },
        html("i", { class: "length", style: `width: ${(100 * z) / longest}%` }),
        html("i", { class: "limit", style: `left: ${(100 * limit) / longest}%` })),
      html("span", { class: "numbers" }, says));
  }

  close() {
    this.model.off("change:shown", this.answered);
    clearTimeout(this.later);
  }
}

export default {
  render({ model, el }) {
    const lab = new Lab(model, el);
    return () => lab.close();
  },
};
