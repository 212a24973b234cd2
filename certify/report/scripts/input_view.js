// The view of a single input: pictures, axes of what is proved and found, a plane through it, logits.
//
// All numbers come in words, rounded to their safe side: what is drawn stands where the words say.
"use strict";

{
  const view = document.getElementById("input-view");
  const section = document.getElementById("input");
  const { element, svg } = report;
  const KINDS = { proof: "≥", probable: "≥", witness: "≤", estimate: "" };
  let data = null; // parsed when somebody first looks at an input

  document.addEventListener("show-input", ({ detail }) => {
    data ??= JSON.parse(document.getElementById("data-inputs").textContent);
    const model = data.models[detail.model];
    const input = model?.inputs[detail.index];
    const names = report.data.models[detail.model].classes;
    const name = (number) => (names[number] === undefined ? `class ${number}` : `${number} ${names[number]}`);
    const parts = input ? described(input, model.methods, name) : [element("p", { class: "note" }, "This page has no details of this input.")];
    const left = model?.left_out ? [element("p", { class: "note" }, model.left_out)] : [];
    view.replaceChildren(...parts, ...left);
  });

  section.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey || event.target.closest(".scroll, a, input")) return;
    event.preventDefault();
    section.querySelector(`[data-step="${by}"]`)?.click();
  });

  function described(input, methods, name) {
    const wrong = input.prediction !== input.label;
    return [
      element(
        "p",
        { class: "facts" },
        element("span", {}, `label ${name(input.label)}`),
        element("span", { class: wrong && "wrong" }, `prediction ${name(input.prediction)}`),
      ),
      ...views(input, name),
      ...input.axes.map((axis) => axisView(axis, methods)),
      ...(input.plane ? [planeView(input.plane, name)] : []),
      ...(input.logits ? [logitView(input, name)] : []),
    ];
  }

  const part = (title, ...children) => element("section", { class: "part" }, element("h3", {}, title), ...children);

  // The input and its adversarial examples

  function views(input, name) {
    if (!input.view) return [element("p", { class: "note" }, "No picture of this input is on this page.")];
    const make = { picture: pictures, features: features, tokens: tokens }[input.view.kind];
    return [make(input, name)];
  }

  const outcome = (each, name) => `${name(each.class)} at ${each.norm} distance ${each.distance}`;

  function pictures(input, name) {
    const [width, height] = input.view.size;
    const image = (src, alt, words, kind = "") =>
      element("div", { class: kind }, element("img", { src, alt, width, height }), words);
    const clean = () => image(input.view.picture, `input, ${name(input.label)}`, "input");
    if (!input.neighbours.length) {
      const words = element("figcaption", {}, "No adversarial example was found.");
      return element("section", { class: "part" }, element("figure", {}, element("div", { class: "pictures" }, clean()), words));
    }
    const cards = input.neighbours.map((each) =>
      element(
        "figure",
        {},
        element(
          "div",
          { class: "pictures" },
          clean(),
          image(each.picture, `adversarial example in ${each.norm}, ${name(each.class)}`, "adversarial"),
          image(each.change, `change in ${each.norm}, amplified by ${each.factor}`, `change × ${each.factor}`, "change"),
        ),
        element("figcaption", {}, captioned(each, name)),
      ),
    );
    return element("section", { class: "part" }, ...cards);
  }

  function captioned(each, name) {
    const about = each.about === "the model itself" ? "" : `, of ${each.about}`;
    return `${outcome(each, name)}, found by ${each.method}${about}`;
  }

  function features(input, name) {
    const { rows, features: all } = input.view;
    const heads = ["feature", "input", ...input.neighbours.map((each) => each.norm)];
    const body = rows.map(([feature, own, others]) => [
      { head: feature },
      own,
      ...others.map((text) => ({ text, class: text !== own && "found" })),
    ]);
    const shown = rows.length < all ? `${rows.length} of ${all} features, those that change the most. ` : "";
    const found = input.neighbours.map((each) => `${each.norm}: ${captioned(each, name)}.`).join(" ");
    return part("Features", table(heads, body, "Features"), element("p", { class: "note" }, shown + found));
  }

  function tokens(input, name) {
    const line = (shares) =>
      element(
        "p",
        { class: "tokens" },
        ...input.view.tokens.map((token, i) =>
          element("span", shares ? { style: `--share: ${shares[i]}`, title: `${Math.round(100 * shares[i])} % of the largest change` } : {}, token),
        ),
      );
    const found = input.neighbours.flatMap((each, i) => {
      const most = input.view.shares[i].indexOf(Math.max(...input.view.shares[i]));
      const words = `${captioned(each, name)}; “${input.view.tokens[most]}” changes the most`;
      return [element("p", { class: "note" }, words), line(input.view.shares[i])];
    });
    return part("Tokens", ...(found.length ? found : [line(null)]));
  }

  // Tables: a cell is a text, or {text, class}, or {head} at the beginning of a row.

  function table(heads, rows, label, left = 1) {
    const cell = (each, i) => {
      const number = i >= left ? "number" : "";
      if (each.head !== undefined) return element("th", { scope: "row" }, each.head);
      const { text = each, class: own } = each;
      return element("td", { class: [number, own].filter(Boolean).join(" ") || null }, text);
    };
    return element(
      "div",
      { class: "scroll", tabindex: 0, role: "region", "aria-label": label },
      element(
        "table",
        {},
        element("thead", {}, element("tr", {}, ...heads.map((head, i) => element("th", { scope: "col", class: i >= left && "number" }, head)))),
        element("tbody", {}, ...rows.map((cells) => element("tr", {}, ...cells.map(cell)))),
      ),
    );
  }

  // Axes

  // The number that a text begins with; NaN without one.
  const numberOf = (text) => parseFloat(text.replace("≈ ", ""));

  // Places from 0 to 1 on an axis: evenly, or by powers of ten where numbers are far apart.
  function scaleOf(values) {
    const positive = values.filter((value) => value > 0 && value < Infinity);
    const high = Math.max(...positive, 0) || 1;
    const low = Math.min(...positive, high);
    if (high / low <= 40) {
      const right = high * 1.12;
      const step = [1, 2, 5, 10].map((digit) => digit * 10 ** Math.floor(Math.log10(right / 4))).find((each) => right / each <= 5);
      const ticks = Array.from({ length: Math.floor(right / step) + 1 }, (_, i) => i * step);
      return { at: (value) => value / right, ticks, logarithmic: false };
    }
    const [from, to] = [Math.floor(Math.log10(low) - 0.1), Math.log10(high * 1.6)];
    const powers = Array.from({ length: Math.floor(to) - from + 1 }, (_, i) => from + i);
    const thin = Math.ceil(powers.length / 5);
    const at = (value) => (value > 0 ? 0.06 + (0.94 * (Math.log10(value) - from)) / (to - from) : 0);
    return { at, ticks: [0, ...powers.filter((_, i) => i % thin === 0).map((power) => 10 ** power)], logarithmic: true };
  }

  const SYMBOLS = {
    proof: ["path", { d: "M-4-6 6 0-4 6z" }],
    probable: ["path", { d: "M-4-6 6 0-4 6z", class: "hollow" }],
    witness: ["path", { d: "M4-6-6 0 4 6z" }],
    estimate: ["path", { d: "M0-6 6 0 0 6-6 0z", class: "hollow" }],
  };

  function symbol(kind) {
    const [name, attributes] = SYMBOLS[kind] ?? ["circle", { r: 5, class: "hollow" }];
    return svg(name, { ...attributes, class: `mark ${kind} ${attributes.class ?? ""}` });
  }

  const HEIGHT = 70;
  const LANES = { proof: 14, probable: 14, witness: 14 };

  function axisView(axis, methods) {
    const [tone, low, high, gapName] = axis.gap;
    const marks = axis.marks.map(([line, kind, text, status]) => ({ ...methods[line], kind, text, status, value: numberOf(text) }));
    const words = (mark) => `${KINDS[mark.kind] ?? ""}${KINDS[mark.kind] ? " " : ""}${mark.text}`;
    const drawn = marks.filter((mark) => mark.value >= 0 && mark.value < Infinity);
    const rows = marks.map((mark) => [
      { head: element("span", { class: "method" }, element("span", { class: "symbol", "aria-hidden": "true" }, svg("svg", { viewBox: "-8 -8 16 16" }, symbol(mark.kind))), mark.method) },
      { text: mark.value >= 0 ? words(mark) : "—" },
      { text: mark.status, class: "status" },
    ]);
    const list = drawn.map((mark) => `${mark.method} ${words(mark)}`).join(", ");
    const label = `Axis of ${axis.norm} distance. ${gapName}. In order: ${list || "no number"}.`;
    return part(
      `${axis.norm}, ${axis.about}`,
      element("p", { class: `gap ${tone}` }, gapName[0].toUpperCase() + gapName.slice(1)),
      ...(drawn.length ? [axisFigure(drawn, tone, numberOf(low), numberOf(high), label)] : []),
      tableOfMarks(rows, axis),
    );
  }

  function tableOfMarks(rows, axis) {
    const made = table(["method", "value", "status"], rows, `Numbers in ${axis.norm}, ${axis.about}`);
    for (const row of made.querySelectorAll("tr")) row.lastChild.classList.remove("number");
    return made;
  }

  function axisFigure(marks, tone, low, high, label) {
    const scale = scaleOf(marks.map((mark) => mark.value));
    const x = (value) => `${(2 + 96 * scale.at(value)).toFixed(2)}%`;
    const width = (from, to) => `${Math.max(0, 96 * (to - from)).toFixed(2)}%`;
    const zone = (from, to, kind) => svg("rect", { x: `${(2 + 96 * from).toFixed(2)}%`, y: 4, width: width(from, to), height: 40, class: `zone ${kind}` });
    const [safe, broken] = [low >= 0 ? scale.at(low) : 0, high >= 0 ? scale.at(high) : 1];
    const open = tone === "open" || tone === "closed";
    const zones = open ? [zone(0, safe, "safe"), zone(safe, broken, "between"), zone(broken, 1, "broken")] : [];
    const named = open && broken - safe > 0.14;
    const middle = `${(2 + 48 * (safe + broken)).toFixed(2)}%`;
    const base = 44;
    return svg(
      "svg",
      { class: "axis", width: "100%", height: HEIGHT, role: "img", "aria-label": label },
      ...zones,
      ...(named ? [svg("text", { x: middle, y: 40, class: "name" }, "gap")] : []),
      svg("line", { x1: "2%", x2: "98%", y1: base, y2: base, class: "base" }),
      ...scale.ticks.flatMap((tick) => [
        svg("line", { x1: x(tick), x2: x(tick), y1: base, y2: base + 4, class: "base" }),
        svg("text", { x: x(tick), y: base + 18, class: "tick" }, String(Number(tick.toPrecision(3)))),
      ]),
      ...marks.map((mark) => {
        const lane = LANES[mark.kind] ?? 28;
        return svg(
          "svg",
          { x: x(mark.value), overflow: "visible" },
          svg("title", {}, `${mark.method}: ${mark.text}`),
          svg("line", { x1: 0, x2: 0, y1: lane, y2: base, class: `stem ${mark.kind}` }),
          svg("g", { transform: `translate(${mark.kind === "witness" ? 6 : LANES[mark.kind] ? -6 : 0} ${lane})` }, symbol(mark.kind)),
        );
      }),
    );
  }

  // A plane through the input

  const SIDE = 400; // units of the drawing
  const DASHES = ["none", "7 4", "2 4", "9 3 2 3"];

  function planeView(plane, name) {
    const count = plane.rows.length;
    const cell = SIDE / count;
    const at = ([a, b]) => [(SIDE / 2) * (1 + a / plane.extent), (SIDE / 2) * (1 - b / plane.extent)];
    const shares = plane.classes.map(([label, share]) => [name(label), share]);
    if (plane.others > 0) shares.push(["other classes", plane.others]);
    const percent = (share) => (share < 0.01 ? "less than 1 %" : `${Math.round(100 * share)} %`);
    const regions = plane.classes.map(([label], code) => region(plane.rows, String(code), cell));
    if (plane.others > 0) regions.push(region(plane.rows, "x", cell));
    const balls = plane.balls.map((ball, i) =>
      svg("path", { class: "ball", "stroke-dasharray": DASHES[i % DASHES.length], d: `M${ball.outline.map((point) => at(point).map((each) => each.toFixed(1)).join(" ")).join("L")}z` }),
    );
    const crosses = plane.places.map((place, i) => marker(at(place.at), i === 0 ? "M-5-5 5 5M5-5-5 5" : "M0-6V6M-6 0H6"));
    const texts = plane.classes.map(([label], code) => labelled(plane.rows, String(code), cell, name(label).split(" ").slice(-1)[0] || String(label)));
    const spoken = `Classes in a plane through the input: ${shares.map(([each, share]) => `${each} ${percent(share)}`).join(", ")}. ` +
      plane.places.map((place) => `The adversarial example in ${place.norm} lies ${Number(Math.hypot(...place.at).toPrecision(3))} from the input in l2.`).join(" ") +
      plane.balls.map((ball) => ` The ball of radius ${ball.text} in ${ball.norm} is drawn.`).join("");
    const figure = svg(
      "svg",
      { class: "plane", viewBox: `0 0 ${SIDE} ${SIDE}`, role: "img", "aria-label": spoken },
      ...regions.map((d, i) => svg("path", { d, class: `region c${i}` })),
      ...texts.filter(Boolean),
      ...balls,
      svg("circle", { cx: SIDE / 2, cy: SIDE / 2, r: 4, class: "centre" }),
      ...crosses,
    );
    return part("A plane through the input", element("div", { class: "plane-row" }, figure, legend(plane, shares, percent)), planeNote(plane));
  }

  // All cells of a class as one path, run by run; the first row is the lowest.
  function region(rows, code, cell) {
    let d = "";
    rows.forEach((row, j) => {
      for (const run of row.matchAll(new RegExp(`${code}+`, "g"))) {
        const [x, y, width] = [run.index * cell, (rows.length - 1 - j) * cell, run[0].length * cell].map((each) => each.toFixed(2));
        d += `M${x} ${y}h${width}v${cell.toFixed(2)}h-${width}z`;
      }
    });
    return d;
  }

  // A name where its region is widest, if it has room.
  function labelled(rows, code, cell, text) {
    let best = { width: 0 };
    rows.forEach((row, j) => {
      for (const run of row.matchAll(new RegExp(`${code}+`, "g"))) {
        const middle = run.index + Math.floor(run[0].length / 2);
        let [up, down] = [j, j];
        while (rows[up + 1]?.[middle] === code) up++;
        while (rows[down - 1]?.[middle] === code) down--;
        const width = Math.min(run[0].length, 4 * (up - j + 1), 4 * (j - down + 1));
        if (width > best.width) best = { width, x: (run.index + run[0].length / 2) * cell, y: (rows.length - j - 0.5) * cell };
      }
    });
    if (best.width * cell < 9 * text.length) return null;
    return svg("text", { x: best.x.toFixed(1), y: best.y.toFixed(1), class: "name" }, text);
  }

  const marker = ([x, y], d) => svg("path", { class: "cross", d, transform: `translate(${x.toFixed(1)} ${y.toFixed(1)})` });

  function legend(plane, shares, percent) {
    const key = (drawing, text) => element("li", {}, drawing, element("span", {}, text));
    const small = (...children) => svg("svg", { viewBox: "-9 -9 18 18", class: "key", "aria-hidden": "true" }, ...children);
    return element(
      "ul",
      { class: "legend" },
      ...shares.map(([each, share], i) => key(small(svg("rect", { x: -8, y: -8, width: 16, height: 16, class: `region c${i}` })), `${each}, ${percent(share)}`)),
      key(small(svg("circle", { r: 4, class: "centre" })), "the input"),
      ...plane.places.map((place, i) => key(small(svg("path", { class: "cross", d: i === 0 ? "M-5-5 5 5M5-5-5 5" : "M0-6V6M-6 0H6" })), `${place.method} in ${place.norm}`)),
      ...plane.balls.map((ball, i) => key(small(svg("path", { d: "M-8 0H8", class: "ball", "stroke-dasharray": DASHES[i % DASHES.length] })), `certified in ${ball.norm}: ${ball.text}`)),
    );
  }

  function planeNote(plane) {
    const across = Number((2 * plane.extent).toPrecision(3));
    const outside = plane.outside > 0 ? ` ${Math.round(100 * plane.outside)} % of its points are outside of the box of valid inputs.` : "";
    return element(
      "p",
      { class: "note" },
      `To the right: ${plane.first}. Upwards: ${plane.second}. The plane is ${across} wide in input units; balls are cut as their norm says, and each of ${plane.rows.length ** 2} points has the class that the model itself gives it.${outside}`,
    );
  }

  // Logits

  function logitView(input, name) {
    const { rows, classes } = input.logits;
    const columns = [rows.map((row) => row[1]), ...input.neighbours.map((_, i) => rows.map((row) => row[2][i]))];
    const largest = columns.map((texts) => Math.max(...texts.map((text) => parseFloat(text)).filter(Number.isFinite)));
    const body = rows.map(([label, own, others]) => [
      { head: name(label) },
      ...[own, ...others].map((text, i) => ({ text: text || "—", class: parseFloat(text) === largest[i] && "largest" })),
    ]);
    const heads = ["class", "input", ...input.neighbours.map((each) => `adversarial, ${each.norm}`)];
    const note = rows.length < classes ? [element("p", { class: "note" }, `${rows.length} of ${classes} classes, with the largest logits of the input.`)] : [];
    return part("Logits", table(heads, body, "Logits"), ...note);
  }
}
