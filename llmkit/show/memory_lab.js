// The memory lab's front end: one slider a knob, a stack of bytes with the card's limit across it, and a button that
// asks for a rehearsal. It computes nothing but lengths.

function html(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

const number = (value) => (typeof value === "number" ? value.toLocaleString("en") : value);
const kind = (name) => name.replaceAll(" ", "-");

class Lab {
  constructor(model, el) {
    Object.assign(this, { model, busy: false, waiting: false });
    this.headline = html("p", { class: "headline", role: "status" });
    this.stack = html("div", { class: "stack", role: "img" });
    this.legend = html("ul", { class: "legend" });
    this.facts = html("dl");
    this.button = html("button", { type: "button" }, "rehearse this setting");
    this.said = html("span", { class: "said", role: "status" });
    this.sliders = model.get("knobs").map((knob) => this.slider(knob));
    this.root = html("section", { class: "llmkit-cost llmkit-memory", "aria-label": "memory lab" },
      html("p", { class: "title" }, model.get("shown").title),
      html("div", { class: "knobs" }, ...this.sliders.map(({ row }) => row)),
      this.headline, this.stack, this.legend,
      html("p", { class: "ask" }, this.button, this.said), this.facts);
    // without the attribute on the very element, JupyterLab takes the arrow keys from a slider
    this.root.addEventListener("focusin", ({ target }) => target.setAttribute("data-lm-suppress-shortcuts", "true"));
    this.button.addEventListener("click", () => {
      this.said.textContent = "two steps, without the memory …";
      this.model.send({ rehearse: true });
    });
    this.answered = () => { this.busy = false; this.draw(); if (this.waiting) this.ask(); };
    model.on("change:shown", this.answered);
    el.append(this.root);
    this.draw();
  }

  slider(knob) {
    const input = html("input", { type: "range", min: 0, max: knob.values.length - 1, step: 1, "aria-label": knob.label });
    const says = html("output");
    input.addEventListener("input", () => { says.textContent = number(knob.values[input.value]); this.ask(); });
    return { knob, input, says, row: html("label", {}, html("span", {}, knob.label), input, says) };
  }

  // One question at a time; while it is under way the hand may move on, and the last place is asked about.
  ask() {
    this.waiting = this.busy;
    if (this.busy) return;
    const setting = Object.fromEntries(this.sliders.map(({ knob, input }) => [knob.name, knob.values[input.value]]));
    const now = this.model.get("shown").setting;
    if (Object.keys(setting).every((name) => setting[name] === now[name])) return;
    this.busy = true;
    this.model.send(setting);
  }

  draw() {
    const { setting, headline, bars, facts, limit, rehearsed } = this.model.get("shown");
    if (!this.waiting) for (const { knob, input, says } of this.sliders) {
      input.value = knob.values.indexOf(setting[knob.name]);
      says.textContent = number(setting[knob.name]);
    }
    const sum = bars.reduce((all, [, size]) => all + size, 0), full = 1.05 * Math.max(sum, limit);
    this.root.setAttribute("data-fits", sum <= limit);
    this.headline.textContent = headline;
    this.stack.setAttribute("aria-label", headline);
    this.stack.replaceChildren(
      ...bars.map(([name, size, says]) =>
        html("i", { class: kind(name), style: `width: ${(100 * size) / full}%`, title: `${name}: ${says}` })),
      html("b", { class: "limit", style: `left: ${(100 * limit) / full}%` }, html("span", {}, setting.card)));
    this.legend.replaceChildren(...bars.map(([name, , says]) =>
      html("li", { "data-name": name }, html("i", { class: kind(name) }), `${name} `, html("b", {}, says))));
    this.said.textContent = rehearsed;
    this.facts.replaceChildren(...facts.flatMap(([name, says]) => [html("dt", {}, name), html("dd", {}, says)]));
  }

  close() { this.model.off("change:shown", this.answered); }
}

export default {
  render({ model, el }) {
    const lab = new Lab(model, el);
    return () => lab.close();
  },
};
