// The cost labs' front end: one slider a knob, and the screen that comes back. It computes nothing but lengths.

const ANSWERS = { yes: "within", maybe: "may be over", no: "over" };

function html(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function svg(tag, attributes, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

const number = (value) => (typeof value === "number" ? value.toLocaleString("en") : value);

class Lab {
  constructor(model, el) {
    Object.assign(this, { model, busy: false, waiting: false });
    this.title = html("p", { class: "title" });
    this.headline = html("p", { class: "headline", role: "status" });
    this.bars = html("div", { class: "bars" });
    this.plot = html("div", { class: "plot" });
    this.lights = html("ul", { class: "lights" });
    this.facts = html("dl");
    this.sliders = model.get("knobs").map((knob) => this.slider(knob));
    this.root = html("section", { class: "llmkit-cost" }, this.title,
      html("div", { class: "knobs" }, ...this.sliders.map(({ row }) => row)),
      this.headline, this.lights,
      html("div", { class: "below" }, html("div", {}, this.bars, this.plot), this.facts));
    // without the attribute on the very element, JupyterLab takes the arrow keys from a slider
    this.root.addEventListener("focusin", ({ target }) => target.setAttribute("data-lm-suppress-shortcuts", "true"));
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
    const { title, setting, headline, bars, lights, facts, plot } = this.model.get("shown");
    this.title.textContent = title;
    if (!this.waiting) for (const { knob, input, says } of this.sliders) {
      input.value = knob.values.indexOf(setting[knob.name]);
      says.textContent = number(setting[knob.name]);
    }
    this.headline.textContent = headline;
    this.lights.replaceChildren(...lights.map(([name, answer, says]) =>
      html("li", { class: answer, "data-light": name }, html("b", {}, `${name}: ${ANSWERS[answer]}`), ` ${says}`)));
    const longest = Math.max(...bars.map(([, value]) => value), 1e-12);
    this.bars.replaceChildren(...bars.map(([name, value, says]) =>
      html("div", { class: "bar", "data-name": name }, html("span", { class: "name" }, name),
        html("span", { class: "track" }, html("i", { style: `width: ${(100 * value) / longest}%` })),
        html("span", { class: "says" }, says))));
    this.facts.replaceChildren(...facts.flatMap(([name, says]) => [html("dt", {}, name), html("dd", {}, says)]));
    this.plot.replaceChildren(...(plot ? [this.roofline(plot)] : []));
  }

  roofline({ lines, dots, x, y }) {
    const at = ([across, up]) => [30 + 320 * across, 8 + 150 * (1 - up)];
    const drawn = lines.map((points) => svg("polyline", { points: points.map((p) => at(p).join()).join(" "), class: "roof" }));
    const marks = dots.map((dot) => svg("circle", { cx: at(dot)[0], cy: at(dot)[1], r: 6, class: "here" }));
    const words = [svg("text", { x: 190, y: 180, "text-anchor": "middle" }, x),
      svg("text", { x: -83, y: 16, transform: "rotate(-90)", "text-anchor": "middle" }, y)];
    return svg("svg", { viewBox: "0 0 360 188", role: "img", "aria-label": "roofline" },
      svg("rect", { x: 30, y: 8, width: 320, height: 150, class: "frame" }), ...drawn, ...marks, ...words);
  }

  close() { this.model.off("change:shown", this.answered); }
}

export default {
  render({ model, el }) {
    const lab = new Lab(model, el);
    return () => lab.close();
  },
};
