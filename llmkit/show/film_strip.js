// The film strip's front end: a moment and a setting out, rows of blocks in. It computes nothing but widths.

function html(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

const slug = (category) => (category || "free").replace(" ", "-");
const mib = (bytes) => `${(bytes / 2 ** 20).toFixed(bytes < 2 ** 20 ? 2 : 1)} MiB`;

class Strip {
  constructor(model, el) {
    this.model = model;
    const { settings, categories } = model.get("choices");
    const options = settings.map((name) => html("option", { value: name }, name || "default"));
    this.settings = html("select", { "aria-label": "allocator settings" }, ...options);
    this.at = html("input", { type: "range", min: 0, step: 1, "aria-label": "moment" });
    this.says = html("p", { class: "says", role: "status" });
    this.rows = html("div", { class: "rows" });
    const legend = [...categories, ""].map((name) =>
      html("span", { class: "key" }, html("i", { class: slug(name) }), name || "free, still reserved"));
    this.root = html("section", { class: "llmkit-strip", "aria-label": "allocator film strip" },
      html("div", { class: "knobs" },
        html("label", {}, "allocator (emulated)", this.settings),
        html("label", {}, "moment", this.at)),
      this.says, this.rows, html("p", { class: "legend" }, ...legend));
    // without the attribute on the very element, JupyterLab takes the arrow keys from a slider
    this.root.addEventListener("focusin", ({ target }) => target.setAttribute("data-lm-suppress-shortcuts", "true"));
    this.settings.addEventListener("change", () => model.send({ settings: this.settings.value }));
    this.at.addEventListener("input", () => {
      model.set("at", Number(this.at.value));
      model.save_changes();
    });
    this.draw = () => this.paint();
    model.on("change:shown change:at", this.draw);
    el.append(this.root);
    this.paint();
  }

  paint() {
    const { settings, frames } = this.model.get("shown");
    const at = Math.min(this.model.get("at"), frames.length - 1), frame = frames[at];
    this.settings.value = settings;
    this.at.max = frames.length - 1;
    this.at.value = at;
    this.root.setAttribute("data-at", at);
    this.root.setAttribute("data-settings", settings);
    this.root.classList.toggle("died", frame.died > 0);
    this.says.textContent = frame.says;
    const size = (blocks) => blocks.reduce((sum, [bytes]) => sum + bytes, 0);
    const longest = Math.max(...frames.flatMap((f) => f.segments.map(size)), 1);
    this.rows.replaceChildren(...frame.segments.map((blocks) => html("div", { class: "row" },
      html("span", { class: "size" }, mib(size(blocks))),
      html("span", { class: "track" },
        html("span", { class: "segment", style: `width: ${(100 * size(blocks)) / longest}%` },
          ...blocks.map(([bytes, category]) => html("i", {
            class: slug(category), style: `flex-grow: ${bytes}`,
            title: `${category || "free"}, ${mib(bytes)}`,
          })))))));
  }

  close() {
    this.model.off("change:shown change:at", this.draw);
  }
}

export default {
  render({ model, el }) {
    const strip = new Strip(model, el);
    return () => strip.close();
  },
};
