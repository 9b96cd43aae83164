// The cockpit's front end: values in, SVG out. It computes nothing that the text twin does not know.
//
// Traits (status, readouts, axes, marks, events, doctor) are small and arrive whole. Curve points arrive as patches:
// drop what you have from step `from` on, append `points`. A model that has just been made asks for everything.

const CURVES = [
  ["loss", "loss", "nats per token", "linear"],
  ["grad_norm", "gradient norm", "before clipping, log scale", "log10"],
  ["loss_scale", "loss scale", "log scale", "log2"],
  ["throughput", "throughput", "tokens/s", "linear"],
];
const RUN = [
  ["go", "Go", "run until told otherwise"],
  ["pause", "Pause", "stop after the step under way"],
  ["step", "Step once", "one optimizer step"],
  ["rescue", "Rescue", "put the crew aboard: watchdog and supervisor; a dead run is tried again"],
  ["dismiss", "Send crew off", "go on without watchdog and supervisor"],
  ["kill", "Kill −9", "SIGKILL: the process is gone, nothing is tidied up"],
  ["bring_back", "Bring back", "a new process resumes from the newest good checkpoint"],
];
const GLYPHS = { broken: "✕", warning: "!", mended: "✓", note: "·" }; // worst first
const TOP = 30, BOTTOM = 150, LEFT = 44, RIGHT = 12, HEIGHT = 168, RECENT = 120; // pixels; RECENT: steps
const SVG = "http://www.w3.org/2000/svg";

// ------------------------------------------------------------------------------------------------------- elements

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}
const html = (tag, attributes = {}, ...children) => filled(document.createElement(tag), attributes, children);
const svg = (tag, attributes = {}, ...children) => filled(document.createElementNS(SVG, tag), attributes, children);

// Written only when it differs: an untouched node cannot flicker, nor lose a selection.
const write = (node, text) => { if (node.textContent !== text) node.textContent = text; };
const set = (node, name, value) => { if (node.getAttribute(name) !== `${value}`) node.setAttribute(name, value); };

function changed(owner, name, ...values) {
  const key = JSON.stringify(values), differs = owner[name] !== key;
  owner[name] = key;
  return differs;
}

// --------------------------------------------------------------------------------------------------------- curves

function patch(curve, change) {
  curve.points = curve.points.filter(([step]) => step < change.from).concat(change.points);
  curve.recent = change.from < 0 ? change.recent : curve.recent.concat(change.recent).slice(-RECENT);
  if (change.branches) curve.branches = change.branches;
}

function unit(kind, value) {
  if (typeof value !== "number" || (kind !== "linear" && value <= 0)) return NaN; // "NaN" and "inf" come as words
  return kind === "linear" ? value : Math[kind](value);
}

// Round numbers between two limits; on a logarithmic axis whole decades or powers of two.
function ticks(low, high, kind, count) {
  const power = 10 ** Math.floor(Math.log10((high - low) / count));
  let step = [1, 2, 5, 10].map((k) => k * power).find((s) => s * count >= high - low);
  if (kind !== "linear") step = Math.max(1, Math.ceil(step));
  const found = [];
  for (let i = Math.ceil(low / step); i * step <= high + 1e-9; i++) found.push(i * step);
  return found;
}

function label(value, kind) {
  if (kind === "linear") return value >= 1e4 ? `${+(value / 1e3).toPrecision(3)}k` : `${+value.toPrecision(3)}`;
  const raised = String(value).replace(/./g, (c) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(c)]);
  return (kind === "log2" ? "2" : "10") + raised;
}

function trace(points, x, y, kind) {
  let path = "", pen = "M";
  for (const [step, value] of points) {
    const v = unit(kind, value);
    path += Number.isFinite(v) ? `${pen}${x(step).toFixed(1)} ${y(v).toFixed(1)}` : "";
    pen = Number.isFinite(v) ? "L" : "M"; // the line breaks where there is no number
  }
  return path;
}

// Neighbours closer than `room` pixels share one label.
function grouped(items, x, room) {
  const groups = [];
  for (const item of [...items].sort((a, b) => a.step - b.step)) {
    const group = groups.at(-1);
    if (group && x(item.step) - x(group.at(-1).step) < room) group.push(item);
    else groups.push([item]);
  }
  return groups;
}

// [1, 2, 3, 7] as "1–3, 7"; the tooltip has the rest
function ranges(numbers) {
  const found = [];
  for (const n of numbers.sort((a, b) => a - b)) {
    if (found.length && n === found.at(-1)[1] + 1) found.at(-1)[1] = n;
    else found.push([n, n]);
  }
  const texts = found.map(([a, b]) => (a === b ? `${a}` : `${a}–${b}`));
  return texts.length > 2 ? `${texts[0]} …` : texts.join(", ");
}

class Chart {
  constructor([name, title, unitName, kind]) {
    Object.assign(this, { name, kind });
    this.value = html("output", { class: "value", "data-curve": name }, "–");
    this.svg = svg("svg", { role: "img", height: HEIGHT });
    for (const layer of ["grid", "marks", "branch", "line", "bad"]) {
      this[layer] = svg(["branch", "line"].includes(layer) ? "path" : "g", { class: layer });
      this.svg.append(this[layer]);
    }
    const caption = html("figcaption", {}, html("b", {}, title), this.value, html("span", {}, unitName));
    this.figure = html("figure", {}, caption, this.svg);
  }

  draw(curve, axes, marks, end, readout) {
    const width = Math.max(160, this.figure.clientWidth);
    const points = end ? curve.recent : curve.points;
    const [low, high] = axes[this.name];
    const [from, to] = end ? [end - RECENT, end] : axes.step;
    const x = (step) => LEFT + ((step - from) / (to - from)) * (width - LEFT - RIGHT);
    const y = (v) => BOTTOM - ((v - low) / (high - low)) * (BOTTOM - TOP);
    const inside = (step) => step >= from && step <= to;
    const path = (list) => trace(list.filter(([step]) => inside(step)), x, y, this.kind);
    if (changed(this, "gridKey", width, low, high, from, to)) this.drawGrid(width, [low, high], [from, to], x, y);
    set(this.line, "d", path(points));
    set(this.branch, "d", curve.branches.map(path).join(""));
    const bad = points.filter(([step, value]) => typeof value === "string" && inside(step));
    if (changed(this, "badKey", width, from, to, bad)) this.drawBad(bad, x);
    const seen = marks.filter((mark) => inside(mark.step));
    if (changed(this, "marksKey", width, from, to, seen)) this.drawMarks(seen, x, width);
    write(this.value, readout);
    set(this.value, "data-finite", /\d|–/.test(readout));
    set(this.svg, "aria-label", `${this.name} over steps ${from} to ${to}, now ${readout}`);
  }

  drawGrid(width, [low, high], [from, to], x, y) {
    set(this.svg, "width", width);
    const across = ticks(low, high, this.kind, 4).flatMap((v) => [
      svg("line", { x1: LEFT, x2: width - RIGHT, y1: y(v), y2: y(v) }),
      svg("text", { x: LEFT - 6, y: y(v) + 4, class: "y" }, label(v, this.kind)),
    ]);
    const along = ticks(from, to, "linear", width > 400 ? 6 : 4).map((v) =>
      svg("text", { x: x(v), y: HEIGHT - 3, class: "x" }, (v === 0 ? "step " : "") + v.toLocaleString("en")));
    this.grid.replaceChildren(...across, ...along);
  }

  // Steps without a finite value: a gap in the line, a cross, and the word.
  drawBad(points, x) {
    const groups = grouped(points.map(([step, word]) => ({ step, word })), x, 9);
    this.bad.replaceChildren(...groups.map((group) =>
      svg("text", { x: x(group[0].step) - 4, y: TOP + 12 }, `✕ ${group[0].word}`)));
  }

  // Numbers as in the event log, and beside them the first one's name where there is room.
  drawMarks(marks, x, width) {
    this.marks.replaceChildren(...grouped(marks, x, 24).map((group, i, groups) => {
      const text = ranges(group.map((mark) => mark.mark)), name = group[0].name;
      const half = 5 + 3.1 * text.length, long = 7 + 5.8 * name.length;
      const at = Math.min(Math.max(x(group[0].step), half + 1), width - half - 1);
      const room = (groups[i + 1] ? x(groups[i + 1][0].step) - 14 : width) - at - half;
      const tone = Object.keys(GLYPHS).find((worst) => group.some((mark) => mark.tone === worst));
      return svg("g", {},
        ...group.map((m) => svg("line", { class: m.tone, x1: x(m.step), x2: x(m.step), y1: 15, y2: BOTTOM })),
        svg("rect", { class: tone, x: at - half, y: 1, width: 2 * half, height: 15, rx: 7 }),
        svg("text", { class: tone, x: at, y: 12 }, text),
        svg("text", { class: `${tone} name`, x: at + half + 4, y: 12 }, room > long ? name : ""),
        svg("title", {}, group.map((m) => `${m.mark}: step ${m.step}: ${m.says}`).join("\n")));
    }));
  }
}

// ---------------------------------------------------------------------------------------------------------- panel

class Panel {
  constructor(model, curves, el) {
    Object.assign(this, { model, curves, updates: 0, buttons: {}, charts: CURVES.map((curve) => new Chart(curve)) });
    this.glyph = html("span", { class: "glyph", "aria-hidden": "true" });
    this.state = html("b", { class: "state", role: "status" });
    this.where = html("span", { class: "where" });
    this.busy = html("span", { class: "busy", role: "status" });
    this.at = html("input", { type: "number", min: 0 });
    this.zoom = html("input", { type: "checkbox" });
    const zoom = html("label", { class: "zoom" }, this.zoom, `last ${RECENT} steps only`);
    this.headline = html("p", { class: "headline" });
    this.findings = html("div", { role: "status" });
    this.events = html("ol", { role: "log", "aria-label": "events", tabindex: 0 });
    const run = RUN.map(([press, text, title]) => this.button(press, text, title, { press }));
    this.fault = html("select", { "aria-label": "fault" }, ...model.get("faults").map(([door, faults]) =>
      html("optgroup", { label: `by the ${door}` }, ...faults.map(([name, says]) => html("option", { title: says }, name)))));
    this.symptom = html("p", { class: "symptom" });
    const inject = this.button("inject", "Put in", "break the run", { press: "inject" });
    const repair = this.button("repair", "Repair", "take the faults out; what they did stays done", { press: "repair" });
    this.root = html("section", { class: "llmkit-cockpit", "aria-label": `cockpit of ${model.get("title")}` },
      html("p", { class: "top" }, this.glyph, this.state, this.where, this.busy),
      html("div", { role: "toolbar", "aria-label": "the run" }, ...run, zoom),
      html("div", { role: "toolbar", "aria-label": "break it" },
        html("label", {}, "Break it:", this.fault), html("label", {}, "at step", this.at), inject, repair),
      this.symptom,
      html("div", { class: "charts" }, ...this.charts.map((chart) => chart.figure)),
      html("div", { class: "below" },
        html("section", {}, html("h4", {}, "The doctor"), this.headline, this.findings),
        html("section", {}, html("h4", {}, "Events"), this.events)));
    this.soon = () => { this.frame ??= requestAnimationFrame(() => this.draw()); };
    this.zoom.addEventListener("change", this.soon);
    const explain = () => write(this.symptom, this.fault.selectedOptions[0]?.title ?? "");
    this.fault.addEventListener("input", explain);
    explain();
    // on the very element that has the focus, else JupyterLab takes its keys
    this.root.addEventListener("focusin", ({ target }) => target.setAttribute("data-lm-suppress-shortcuts", "true"));
    this.sizes = new ResizeObserver(this.soon);
    this.sizes.observe(this.root);
    model.on("change", this.soon);
    model.on("msg:custom", this.soon);
    el.append(this.root);
  }

  // aria-disabled, not disabled: a button that is pressed by key keeps the focus.
  button(name, text, title, message) {
    const node = html("button", { type: "button", class: name, title, "aria-disabled": "true" }, text);
    node.addEventListener("click", () => {
      if (node.getAttribute("aria-disabled") === "true") return;
      const at = this.at.value === "" ? null : Number(this.at.value);
      this.model.send(name === "inject" ? { ...message, fault: this.fault.value, at } : message);
      this.at.value = "";
      clearTimeout(this.waiting);
      this.waiting = setTimeout(() => write(this.busy, "waiting for the kernel …"), 1500);
    });
    return (this.buttons[name] = node);
  }

  draw() {
    this.frame = undefined;
    const [status, readouts, axes, marks, events, doctor] =
      ["status", "readouts", "axes", "marks", "events", "doctor"].map((trait) => this.model.get(trait));
    if (changed(this, "answered", status.handled)) clearTimeout(this.waiting);
    set(this.root, "data-state", status.state);
    write(this.glyph, status.glyph);
    write(this.state, status.says);
    write(this.where, status.where);
    write(this.busy, status.busy ? `${status.busy} …` : "");
    set(this.at, "placeholder", status.step);
    for (const [name, node] of Object.entries(this.buttons)) set(node, "aria-disabled", !status.allowed[name]);
    // the last steps are a window that moves by eighths, so that the eye can follow
    const end = this.zoom.checked ? Math.max(RECENT, Math.ceil(status.step / 15) * 15) : 0;
    for (const chart of this.charts) chart.draw(this.curves[chart.name], axes, marks, end, readouts[chart.name]);
    if (changed(this, "eventsKey", events)) this.drawEvents(events);
    write(this.headline, doctor.headline);
    if (changed(this, "findingsKey", doctor.findings)) this.findings.replaceChildren(...doctor.findings.map(card));
    set(this.root, "data-updates", (this.updates += 1));
  }

  drawEvents(events) {
    const list = this.events;
    const following = list.scrollHeight - list.scrollTop - list.clientHeight < 30;
    list.replaceChildren(...events.map(({ tone, kind, mark, step, says }) => html("li", { class: `${tone} ${kind}` },
      html("span", { class: "chip" }, mark ? `${mark}` : ""),
      html("span", { class: "glyph", role: "img", "aria-label": tone }, GLYPHS[tone]),
      html("span", { class: "step" }, `step ${step}`),
      html("span", {}, says))));
    if (following) list.scrollTop = list.scrollHeight;
  }

  close() {
    this.model.off("change", this.soon);
    this.model.off("msg:custom", this.soon);
    this.sizes.disconnect();
    cancelAnimationFrame(this.frame);
    clearTimeout(this.waiting);
  }
}

function card({ code, title, step, confidence, says, evidence, fix }, i) {
  return html("details", { class: "finding", "data-code": code, ...(i ? {} : { open: "" }) },
    html("summary", {}, html("b", {}, `${code} ${title}`), ` step ${step}, ${confidence}`),
    html("p", {}, says),
    html("ul", {}, ...evidence.map((fact) => html("li", {}, fact.says))),
    html("p", {}, html("b", {}, "Fix: "), fix));
}

// One call per model, so that all its views share the curves.
export default () => {
  const curves = Object.fromEntries(CURVES.map(([name]) => [name, { points: [], recent: [], branches: [] }]));
  return {
    initialize({ model }) {
      model.on("msg:custom", (message) => {
        for (const [name, change] of Object.entries(message.curves)) patch(curves[name], change);
      });
      model.send({ press: "hello" });
    },
    render({ model, el }) {
      const panel = new Panel(model, curves, el);
      return () => panel.close();
    },
  };
};
