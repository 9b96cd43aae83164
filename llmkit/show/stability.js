// The stability map's front end: a board of buttons, and the curves of the one that is picked. It computes nothing that
// the text twin does not know. Arrow keys move over the board.

const SVG = "http://www.w3.org/2000/svg";
const WIDE = 620, HIGH = 250, LEFT = 34, RIGHT = 8, TOP = 8, FOOT = 30;
const DASHES = ["", "6 3", "2 3"]; // a seed each

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

class Explorer {
  constructor(model, el) {
    this.model = model;
    this.board = model.get("cells");
    this.keys = new Map();
    this.map = html("div", { class: "map", role: "group", "aria-label": "warmup by learning rate" });
    this.map.style.gridTemplateColumns = `auto repeat(${this.board.lrs.length}, minmax(58px, 1fr))`;
    this.headline = html("p", { class: "headline", role: "status" });
    this.plot = svg("svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, role: "img", "aria-label": "loss by step" });
    this.seeds = html("ul");
    this.before = html("p", { class: "before" });
    this.root = html("section", { class: "llmkit-stability", "aria-label": "stability map", "data-lm-suppress-shortcuts": "true" },
      html("p", { class: "title" }, `${this.board.title} (count of seeds); rows: warmup, steps; columns: peak learning rate`),
      this.map, this.headline, this.plot, this.seeds, this.before);
    this.fill();
    this.map.addEventListener("keydown", (event) => this.move(event));
    this.changed = () => this.draw();
    model.on("change:shown", this.changed);
    el.append(this.root);
    this.draw();
  }

  fill() {
    const { columns, warmups, lrs, rows } = this.board;
    this.map.append(html("span"), ...columns.map((label) => html("span", { class: "label" }, label)));
    rows.forEach((row, i) => {
      this.map.append(html("span", { class: "label" }, String(warmups[i])));
      row.forEach(({ text, marks, says, shade }, j) => {
        const key = html("button", { type: "button", "aria-label": `lr ${columns[j]}, warmup ${warmups[i]}: ${says}`, "data-lr": lrs[j], "data-warmup": warmups[i] },
          text, html("small", {}, marks || "\u00a0"));
        key.style.setProperty("--shade", `${Math.round(100 * shade)}%`);
        key.classList.toggle("bright", shade > 0.5);
        key.addEventListener("click", () => this.model.send({ lr: lrs[j], warmup: warmups[i] }));
        this.keys.set(`${i},${j}`, key);
        this.map.append(key);
      });
    });
  }

  move(event) {
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    const here = [...this.keys].find(([, key]) => key === document.activeElement);
    if (!step || !here) return;
    const [i, j] = here[0].split(",").map(Number);
    const next = this.keys.get(`${i + step[0]},${j + step[1]}`);
    event.preventDefault();
    event.stopPropagation();
    if (next) { next.focus(); next.click(); }
  }

  draw() {
    const shown = this.model.get("shown");
    this.root.setAttribute("data-picked", shown.name);
    for (const key of this.keys.values()) {
      const picked = +key.dataset.lr === shown.lr && +key.dataset.warmup === shown.warmup;
      key.setAttribute("aria-pressed", picked);
      key.tabIndex = picked ? 0 : -1;
    }
    this.headline.textContent = `${shown.name}: ${shown.headline}`;
    this.seeds.replaceChildren(...shown.seeds.map((line, seed) => html("li", {}, this.sample(seed), line)));
    this.before.textContent = shown.before ? `in grey, the cell before it: ${shown.before.name}` : "";
    const all = [...shown.curves, ...(shown.before ? shown.before.curves : [])];
    const steps = Math.max(...all.map((curve) => curve.length)) - 1;
    const { unigram, ceiling } = this.board;
    const low = Math.floor(Math.min(unigram, ...all.flat().filter((loss) => loss !== null)));
    const x = (step) => LEFT + ((WIDE - LEFT - RIGHT) * step) / steps;
    const y = (loss) => TOP + ((HIGH - TOP - FOOT) * (ceiling - loss)) / (ceiling - low);
    const path = (curve) => curve.reduce(([said, up], loss, step) =>
      loss === null ? [said, true] : [`${said}${up ? "M" : "L"}${x(step).toFixed(1)} ${y(loss).toFixed(1)}`, false], ["", true])[0];
    const rules = [];
    for (let loss = low; loss <= ceiling; loss++) {
      rules.push(svg("line", { class: "rule", x1: LEFT, x2: WIDE - RIGHT, y1: y(loss), y2: y(loss) }),
        svg("text", { x: LEFT - 6, y: y(loss) + 4, "text-anchor": "end" }, String(loss)));
    }
    for (let step = 0; step <= steps; step += 20) rules.push(svg("text", { x: x(step), y: HIGH - FOOT + 14, "text-anchor": "middle" }, String(step)));
    rules.push(svg("text", { x: (LEFT + WIDE) / 2, y: HIGH - 3, "text-anchor": "middle" }, `step; loss in nats, cut off at ${ceiling}`),
      svg("line", { class: "unigram", x1: LEFT, x2: WIDE - RIGHT, y1: y(unigram), y2: y(unigram) }),
      svg("text", { x: LEFT + 4, y: y(unigram) + 13 }, `token frequencies ${unigram}`));
    this.plot.replaceChildren(...rules,
      ...(shown.before ? shown.before.curves.map((curve) => svg("path", { class: "old", d: path(curve) })) : []),
      ...shown.curves.map((curve, seed) => svg("path", { class: "curve", d: path(curve), "stroke-dasharray": DASHES[seed % 3] })));
  }

  sample(seed) {
    return svg("svg", { class: "sample", viewBox: "0 0 28 8", "aria-hidden": "true" },
      svg("path", { class: "curve", d: "M0 4L28 4", "stroke-dasharray": DASHES[seed % 3] }));
  }

  close() {
    this.model.off("change:shown", this.changed);
  }
}

export default {
  render({ model, el }) {
    const explorer = new Explorer(model, el);
    return () => explorer.close();
  },
};
