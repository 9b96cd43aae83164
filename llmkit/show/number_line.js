// The number line's front end: the range of each format over powers of two, a mark where the number is, and the words of
// the text twin.

function html(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

class Line {
  constructor(model, el) {
    this.model = model;
    const { powers: [low, high], formats } = model.get("board");
    Object.assign(this, { low, high });
    this.power = html("input", { type: "range", min: low, max: high - 1, step: 1, "aria-label": "power of two" });
    this.mantissa = html("input", { type: "range", min: 1, max: 1.984375, step: 0.015625, "aria-label": "mantissa" });
    this.headline = html("p", { class: "headline", role: "status" });
    this.says = formats.map(() => html("p", { class: "says" }));
    this.rows = formats.map((format, i) => {
      const normal = this.bar("normal", format.smallest, format.largest), subnormal = this.bar("subnormal", format.tiniest, format.smallest);
      return html("div", { class: "row", "data-format": format.name }, html("b", {}, format.name),
        html("div", {}, html("span", { class: "track", title: format.says }, subnormal, normal, html("i", { class: "mark" })), this.says[i]));
    });
    this.root = html("section", { class: "llmkit-scale llmkit-number", "aria-label": "number line", "data-lm-suppress-shortcuts": "true" },
      html("label", {}, "power", this.power), html("label", {}, "mantissa", this.mantissa), this.headline,
      html("p", { class: "caption" }, `powers of two from 2^${low} to 2^${high}; dark: all binary digits, hatched: subnormal, fewer digits; an open end goes on`),
      ...this.rows);
    this.power.addEventListener("input", () => this.ask());
    this.mantissa.addEventListener("input", () => this.ask());
    this.changed = () => { this.busy = false; this.draw(); this.ask(); };
    model.on("change:shown", this.changed);
    el.append(this.root);
    this.draw(true);
  }

  at(power) {
    return Math.max(0, Math.min(100, (100 * (power - this.low)) / (this.high - this.low)));
  }

  bar(name, from, to) {
    const bar = html("i", { class: name });
    bar.style.cssText = `left: ${this.at(from)}%; width: ${this.at(to) - this.at(from)}%`;
    return bar;
  }

  // One question at a time is under way; when it is answered, the next is where the knobs are now.
  ask() {
    const shown = this.model.get("shown"), wanted = { power: +this.power.value, mantissa: +this.mantissa.value };
    if (this.busy || (wanted.power === shown.power && wanted.mantissa === shown.mantissa)) return;
    this.busy = true;
    this.model.send(wanted);
  }

  draw(place) {
    const shown = this.model.get("shown");
    if (place) Object.assign(this.power, { value: shown.power }), (this.mantissa.value = shown.mantissa);
    this.headline.textContent = shown.headline;
    this.root.setAttribute("data-power", shown.power);
    shown.says.forEach((says, i) => {
      this.says[i].textContent = says;
      this.rows[i].setAttribute("data-verdict", says.split(/[: ]/)[0]);
      this.rows[i].querySelector(".mark").style.left = `${this.at(shown.power + Math.log2(shown.mantissa))}%`;
    });
  }
}

export default {
  render({ model, el }) {
    const line = new Line(model, el);
    return () => model.off("change:shown", line.changed);
  },
};
