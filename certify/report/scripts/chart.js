// Curves of one norm and classifier: drawn from the radii at which they step, with a crosshair that reads exact counts.
"use strict";

{
  const HEIGHT = 320;
  const EDGE = { left: 46, right: 14, top: 14, bottom: 42 };
  const STEPS = 1500; // steps of a drawn curve, at most
  const BANDS = 4; // curves, at most, that are drawn with their bands; of more, only the one that is pointed at
  const PARTS = 100000; // of these, ends of intervals are whole numbers

  const above = { proved: false, probable: false, attacked: true }; // whether a curve is an upper bound

  // How many of the sorted limits count at a radius: certified ones up to their limit, attacked ones only below it.
  function count(curve, radius) {
    let low = 0;
    let high = curve.limits.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      const passed = above[curve.promised] ? curve.limits[middle] <= radius : curve.limits[middle] < radius;
      if (passed) low = middle + 1;
      else high = middle;
    }
    return curve.limits.length - low;
  }

  // Exact interval of a count, as shares.
  function interval(curve, counted) {
    const lower = report.data.intervals[curve.inputs];
    return [lower[counted] / PARTS, (PARTS - lower[curve.inputs - counted]) / PARTS];
  }

  // Where a curve steps, and its count between: of two, a lower bound has the lower one, an upper bound the higher.
  function pieces(curve, right) {
    const inside = [...new Set(curve.limits)].filter((limit) => limit > 0 && limit < right);
    const every = Math.ceil(inside.length / STEPS) || 1;
    const kept = inside.filter((_, i) => i % every === 0 || i === inside.length - 1);
    const edges = [0, ...kept, right];
    return edges.slice(1).map((end, i) => ({
      from: edges[i],
      to: end,
      count: count(curve, above[curve.promised] ? edges[i] : end),
    }));
  }

  // The largest of 1, 2 and 5 times a power of ten that is not above a number.
  function round(number) {
    const power = 10 ** Math.floor(Math.log10(number));
    return Number(([5, 2, 1].find((digit) => digit * power <= number) * power).toPrecision(1));
  }

  const short = (number) => String(Number(number.toPrecision(6)));

  class Chart {
    constructor(place, data) {
      this.data = data;
      this.curves = data.curves;
      for (const curve of this.curves) curve.limits = Float64Array.from(curve.limits, Number);
      this.right = data.right;
      this.hidden = new Set();
      this.plot = report.svg("svg", { class: "plot", "aria-hidden": "true" });
      this.figure = report.element("figure", {}, this.heading(), this.plot, this.slider(), this.legend());
      place.append(this.figure);
      place.hidden = false;
      this.setRange(data.right);
      this.plot.addEventListener("pointermove", (event) => this.follow(event));
      this.plot.addEventListener("pointerdown", (event) => this.follow(event));
      new ResizeObserver(() => this.draw()).observe(this.plot);
    }

    heading() {
      const title = report.element("figcaption", {}, report.element("strong", {}, this.data.norm), ` ${this.data.panel}`);
      if (this.data.end * 1.04 > this.data.right * 1.001) {
        const change = (event) => this.setRange(event.target.checked ? 1.04 * this.data.end : this.data.right);
        const box = report.element("input", { type: "checkbox", onchange: change });
        title.append(report.element("label", { class: "range" }, box, "all radii"));
      }
      return title;
    }

    slider() {
      const name = `radius in ${this.data.norm}, ${this.data.panel}`;
      this.range = report.element("input", { type: "range", min: 0, "aria-label": name });
      this.range.addEventListener("input", () => this.read());
      this.said = report.element("output", {});
      return report.element("div", { class: "cursor" }, this.range, this.said);
    }

    legend() {
      this.rows = this.curves.map((curve, i) => {
        const box = report.element("input", { type: "checkbox", checked: true, onchange: () => this.toggle(i, box) });
        const line = report.svg("path", { class: `curve ${curve.promised}`, d: "M0 4H28" });
        const swatch = report.svg("svg", { class: "swatch", viewBox: "0 0 28 8", width: 28, height: 8 }, line);
        swatch.setAttribute("aria-hidden", "true");
        const label = report.element("label", {}, box, swatch, report.element("span", {}, curve.name));
        const head = report.element("th", { scope: "row" }, label, report.element("small", {}, curve.promise));
        const share = report.element("span", {});
        const ends = report.element("small", {});
        const numbers = report.element("td", { class: "number" }, share, ends);
        const row = report.element("tr", { style: `--color: var(--curve-${curve.color % 12})` }, head, numbers);
        for (const event of ["pointerenter", "focusin"]) row.addEventListener(event, () => this.emphasise(i));
        for (const event of ["pointerleave", "focusout"]) row.addEventListener(event, () => this.emphasise(null));
        return { row, share, ends };
      });
      const confidence = report.element("small", {}, `${Math.round(100 * report.data.confidence)}% interval`);
      const heads = [
        report.element("th", { scope: "col" }, "curve"),
        report.element("th", { scope: "col", class: "number" }, "accuracy, %", confidence),
      ];
      const body = report.element("tbody", {}, ...this.rows.map(({ row }) => row));
      const table = report.element("table", { class: "legend" });
      table.append(report.element("thead", {}, report.element("tr", {}, ...heads)), body);
      return table;
    }

    setRange(right) {
      this.right = right;
      this.step = round(right / 300);
      const before = this.radius;
      this.range.max = Math.floor(right / this.step);
      this.range.value = Math.round((before ?? round(right / 3)) / this.step);
      this.draw();
      this.read();
    }

    toggle(i, box) {
      if (box.checked) this.hidden.delete(i);
      else this.hidden.add(i);
      this.rows[i].row.classList.toggle("off", !box.checked);
      this.draw();
    }

    emphasise(i) {
      this.plot.classList.toggle("emphasis", i !== null);
      for (const group of this.plot.querySelectorAll("[data-curve]")) {
        group.classList.toggle("chosen", Number(group.dataset.curve) === i);
      }
    }

    follow(event) {
      const box = this.plot.getBoundingClientRect();
      const share = (event.clientX - box.left - EDGE.left) / (box.width - EDGE.left - EDGE.right);
      if (share < 0 || share > 1) return;
      this.range.value = Math.round((share * this.right) / this.step);
      this.read();
    }

    // The numbers at the crosshair, as text.
    read() {
      this.radius = Number((this.range.value * this.step).toPrecision(6));
      const levels = this.data.levels && this.radius > 0 ? ` (${Number((255 * this.radius).toPrecision(3))}/255)` : "";
      this.said.textContent = `radius ${short(this.radius)}${levels}`;
      const spoken = this.curves.map((curve, i) => {
        const upper = above[curve.promised];
        const counted = count(curve, this.radius);
        const [low, high] = interval(curve, counted);
        const share = report.percent(counted / curve.inputs, upper);
        this.rows[i].share.textContent = `${upper ? "≤" : "≥"} ${share}`;
        this.rows[i].ends.textContent = `${report.percent(low)}–${report.percent(high, true)}`;
        return `${curve.name} ${upper ? "at most" : "at least"} ${share} %`;
      });
      this.range.setAttribute("aria-valuetext", `${short(this.radius)}: ${spoken.join(", ")}`);
      this.point();
    }

    x(radius) {
      return EDGE.left + (Math.min(radius, this.right) / this.right) * (this.width - EDGE.left - EDGE.right);
    }

    y(share) {
      return EDGE.top + (1 - share) * (HEIGHT - EDGE.top - EDGE.bottom);
    }

    draw() {
      this.width = this.plot.clientWidth;
      if (!this.width) return;
      this.plot.setAttribute("viewBox", `0 0 ${this.width} ${HEIGHT}`);
      this.cross = report.svg("g", { class: "cross" });
      const shown = this.curves.map((curve, i) => (this.hidden.has(i) ? null : this.line(curve, i))).filter(Boolean);
      this.plot.classList.toggle("many", shown.length > BANDS);
      this.plot.replaceChildren(this.axes(), ...shown, this.cross);
      if (this.radius !== undefined) this.point();
    }

    axes() {
      const group = report.svg("g", { class: "axes" });
      const [left, right, bottom] = [EDGE.left, this.width - EDGE.right, HEIGHT - EDGE.bottom];
      const text = (words, x, y, anchor) => report.svg("text", { x, y, "text-anchor": anchor }, words);
      for (const percent of [0, 20, 40, 60, 80, 100]) {
        const y = this.y(percent / 100);
        group.append(report.svg("path", { d: `M${left} ${y}H${right}`, class: percent ? "grid" : "base" }));
        group.append(text(percent ? `${percent}` : "0 %", left - 8, y + 4, "end"));
      }
      const tick = round(this.right / Math.max(2, Math.min(6, this.width / 90)));
      for (let i = 0; i * tick <= this.right; i++) {
        group.append(report.svg("path", { d: `M${this.x(i * tick)} ${bottom}v5`, class: "base" }));
        group.append(text(short(i * tick), this.x(i * tick), bottom + 19, "middle"));
      }
      group.append(text(`radius (${this.data.axis})`, (left + right) / 2, HEIGHT - 5, "middle"));
      if (this.data.clean != null) {
        const y = this.y(this.data.clean);
        group.append(report.svg("path", { d: `M${left} ${y}H${right}`, class: "clean" }));
        group.append(text(`clean ${(100 * this.data.clean).toFixed(1)} %`, right, y - 5, "end"));
      }
      return group;
    }

    line(curve, i) {
      const steps = pieces(curve, this.right);
      const share = ({ count: counted }) => counted / curve.inputs;
      const ends = ({ count: counted }) => interval(curve, counted);
      const at = (piece, value) => `V${this.y(value).toFixed(2)}H${this.x(piece.to).toFixed(2)}`;
      const back = (piece) => `V${this.y(ends(piece)[0]).toFixed(2)}H${this.x(piece.from).toFixed(2)}`;
      const start = `M${this.x(0)} `;
      const first = start + this.y(count(curve, 0) / curve.inputs).toFixed(2);
      const line = first + steps.map((piece) => at(piece, share(piece))).join("");
      const upper = start + this.y(ends(steps[0])[1]).toFixed(2) + steps.map((piece) => at(piece, ends(piece)[1])).join("");
      const lower = steps.slice().reverse().map(back).join("");
      const group = { "data-curve": i, style: `--color: var(--curve-${curve.color % 12})` };
      return report.svg(
        "g",
        group,
        report.svg("path", { class: "band", d: `${upper}${lower}Z` }),
        report.svg("path", { class: `curve ${curve.promised}`, d: line }),
      );
    }

    // The crosshair, and a dot on every curve that is shown.
    point() {
      if (!this.cross) return;
      const x = this.x(this.radius);
      const dots = this.curves.map((curve, i) =>
        report.svg("circle", {
          cx: x,
          cy: this.y(count(curve, this.radius) / curve.inputs),
          r: 4,
          style: `--color: var(--curve-${curve.color % 12})`,
          visibility: this.hidden.has(i) ? "hidden" : null,
        }),
      );
      this.cross.replaceChildren(report.svg("path", { d: `M${x} ${EDGE.top}V${HEIGHT - EDGE.bottom}` }), ...dots);
    }
  }

  for (const place of document.querySelectorAll("[data-chart]")) {
    new Chart(place, report.data.charts[place.dataset.chart]);
    document.documentElement.classList.add("drawn"); // only now is the static figure left to print
  }
}
