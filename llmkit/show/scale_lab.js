// The loss-scale lab's front end: a window dragged over the exponents of every layer, and a policy that chases the
// limit, step by step. It computes nothing that the text twin does not know.

const SVG = "http://www.w3.org/2000/svg";
const WIDE = 900, HIGH = 190, LEFT = 42, RIGHT = 10, TOP = 8, FOOT = 26;
const SMALLEST = -24, LARGEST = 16; // exponents: fp16's smallest number, and the first power beyond its largest

function html(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

class Lab {
  constructor(model, el) {
    this.model = model;
    this.board = model.get("board");
    const [low, high] = this.board.powers;
    this.first = Math.min(this.board.first, SMALLEST - high / 2);
    this.count = this.board.last + 3 - this.first;
    this.power = html("input", { type: "range", min: low, max: high, step: 1, "aria-label": "loss scale, power of two" });
    this.powerSays = html("output");
    this.policy = html("select", { "aria-label": "policy" }, ...this.board.policies.map((name) => html("option", {}, name)));
    this.play = html("button", { type: "button" }, "play");
    this.headline = html("p", { class: "headline", role: "status" });
    this.window = html("i", { class: "window" });
    this.says = this.board.rows.map(() => html("span", { class: "numbers" }));
    this.plot = svg("svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, role: "img", "aria-label": "scale and limit by step" });
    this.outcome = html("p", { class: "outcome" });
    this.root = html("section", { class: "llmkit-scale", "aria-label": "loss-scale lab", "data-lm-suppress-shortcuts": "true" },
      html("label", {}, "loss scale", this.power, this.powerSays),
      this.headline,
      html("p", { class: "caption" }, `exponents of the gradients of step ${this.board.step}, by layer (height: root of the share); the window is what fp16 holds`),
      html("div", { class: "strips" }, ...this.board.rows.flatMap((row, i) => [html("span", { class: "name", title: row.name }, row.name), this.strip(row), this.says[i]]),
        html("span"), this.axis(), html("span")),
      html("div", { class: "chase" }, html("label", {}, "policy", this.policy), this.play, this.outcome),
      this.plot);
    this.strips = this.root.querySelector(".strips");
    this.strips.append(this.window);
    this.power.addEventListener("input", () => this.send({ power: +this.power.value }));
    this.policy.addEventListener("input", () => this.send({ policy: this.policy.value }));
    this.play.addEventListener("click", () => this.animate());
    this.changed = () => { this.busy = false; this.draw(); if (this.next) this.send(this.next); };
    model.on("change:shown", this.changed);
    el.append(this.root);
    this.draw();
  }

  // One question at a time is under way; while the hand moves, the next one is where the knob is now.
  send(message) {
    if (this.busy) { this.next = message; return; }
    this.next = null;
    const shown = this.model.get("shown");
    if (Object.entries(message).every(([knob, value]) => shown[knob] === value)) return;
    this.busy = true;
    this.model.send(message);
  }

  at(exponent) {
    return (100 * (exponent - this.first)) / this.count;
  }

  strip({ name, shares }) {
    const most = Math.max(...shares);
    const cells = shares.map((share, i) => {
      const cell = html("i", { title: `${name}, 2^${this.board.first + i}: ${(100 * share).toFixed(2)}%` });
      cell.style.cssText = `left: ${this.at(this.board.first + i)}%; width: ${100 / this.count}%; height: ${100 * Math.sqrt(share / most)}%`;
      return cell;
    });
    return html("span", { class: "strip" }, ...cells);
  }

  axis() {
    const marks = [];
    for (let e = Math.ceil(this.first / 8) * 8; e < this.first + this.count - 2; e += 8) {
      const mark = html("span", {}, `2^${e}`);
      mark.style.left = `${this.at(e)}%`;
      marks.push(mark);
    }
    return html("span", { class: "axis" }, ...marks);
  }

  draw() {
    const shown = this.model.get("shown");
    this.root.setAttribute("data-power", shown.power);
    this.root.setAttribute("data-policy", shown.policy);
    if (!this.next) this.power.value = shown.power;
    this.policy.value = shown.policy;
    this.powerSays.textContent = `2^${shown.power}`;
    this.headline.textContent = shown.headline;
    this.outcome.textContent = shown.outcome;
    shown.rows.forEach((says, i) => { this.says[i].textContent = says; });
    const from = Math.max(0, this.at(SMALLEST - 1 - shown.power)), to = Math.min(100, this.at(LARGEST - shown.power));
    this.window.style.setProperty("--from", from / 100);
    this.window.style.setProperty("--to", Math.max(from, to) / 100);
    this.chase(shown, shown.chase.length);
  }

  // The limit as a line, the scale as steps up to `count`, a cross where the step was skipped.
  chase({ limits, chase, skipped }, count) {
    const known = [...limits, ...chase].filter((value) => value !== null);
    const low = Math.floor(Math.min(...known)) - 1, high = Math.ceil(Math.max(...known)) + 1;
    const x = (step) => LEFT + ((WIDE - LEFT - RIGHT) * step) / Math.max(1, limits.length - 1);
    const y = (value) => HIGH - FOOT - ((HIGH - FOOT - TOP) * (value - low)) / (high - low);
    const line = (values, stairs) => values.map((value, step) => (value === null ? "" :
      `${step && values[step - 1] !== null ? (stairs ? `H${x(step)}V` : "L") : "M"}${stairs && step && values[step - 1] !== null ? "" : `${x(step)},`}${y(value)}`)).join("");
    const parts = [];
    for (let value = Math.ceil(low / 4) * 4; value <= high; value += 4) {
      parts.push(svg("line", { x1: LEFT, x2: WIDE - RIGHT, y1: y(value), y2: y(value), class: "grid" }),
        svg("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, `2^${value}`));
    }
    parts.push(svg("path", { d: line(limits, false), class: "limit" }), svg("path", { d: line(chase.slice(0, count), true), class: "scale" }));
    skipped.slice(0, count).forEach((was, step) => {
      if (was && chase[step] !== null) parts.push(svg("text", { x: x(step), y: y(chase[step]) + 5, class: "skip", "text-anchor": "middle" }, "×"));
    });
    parts.push(svg("text", { x: LEFT, y: HIGH - 7 }, "step 0"), svg("text", { x: WIDE - RIGHT, y: HIGH - 7, "text-anchor": "end" }, String(limits.length - 1)),
      svg("text", { x: WIDE / 2, y: HIGH - 7, "text-anchor": "middle" }, "dashed: largest scale without overflow · line: the policy's · ×: skipped"));
    this.plot.replaceChildren(...parts);
    this.root.setAttribute("data-played", count);
  }

  animate() {
    clearInterval(this.timer);
    const shown = this.model.get("shown");
    let count = 0;
    this.timer = setInterval(() => {
      if (shown !== this.model.get("shown")) { clearInterval(this.timer); return; } // the other policy is drawn whole
      this.chase(shown, (count += 1));
      if (count >= shown.chase.length) clearInterval(this.timer);
    }, 3000 / shown.chase.length);
  }

  close() {
    clearInterval(this.timer);
    this.model.off("change:shown", this.changed);
  }
}

export default {
  render({ model, el }) {
    const lab = new Lab(model, el);
    return () => lab.close();
  },
};
