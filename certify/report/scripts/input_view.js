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
    const short = (number) => names[number] ?? `class ${number}`;
    const parts = input ? described(input, model, name, short) : [element("p", { class: "note" }, "This page has no details of this input.")];
    const left = model?.left_out ? [element("p", { class: "note" }, model.left_out)] : [];
    view.replaceChildren(...parts, ...left);
  });

  section.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey || event.target.closest(".scroll, a, input")) return;
    event.preventDefault();
    section.querySelector(`[data-step="${by}"]`)?.click();
  });

  function described(input, model, name, short) {
    const wrong = input.prediction !== input.label;
    return [
      element(
        "p",
        { class: "facts" },
        element("span", {}, `label ${name(input.label)}`),
        element("span", { class: wrong && "wrong" }, `prediction ${name(input.prediction)}`),
      ),
      ...views(input, name),
      ...input.axes.map((axis) => axisView(unpacked(axis, model))),
      ...(input.plane ? [planeView(input.plane, name, short)] : []),
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
    const [from, to] = [Math.floor(Math.log10(low) + 1e-9), Math.log10(high * 1.6)];
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
    return svg(name, { ...attributes, class: `mark is-${kind} ${attributes.class ?? ""}` });
  }

  const HEIGHT = 70;
  const LANES = { proof: 14, probable: 14, witness: 14 };

  // An axis with its words, which stand once in the data.
  function unpacked([norm, about, packed, [tone, low, high, name]], { methods, words }) {
    const marks = packed.map(([line, text, kind, status]) => ({
      method: methods[line].method,
      text,
      kind: words[kind],
      status: words[status],
      value: numberOf(text),
    }));
    const end = (place) => (place < 0 ? { text: "", value: NaN } : marks[place]);
    const sentence = words[name].replace("{low}", end(low).text).replace("{high}", end(high).text);
    return { norm: words[norm], about: words[about], marks, tone: words[tone], low: end(low).value, high: end(high).value, sentence };
  }

  function axisView(axis) {
    const { marks, tone, sentence } = axis;
    const words = (mark) => `${KINDS[mark.kind] ?? ""}${KINDS[mark.kind] ? " " : ""}${mark.text}`;
    const drawn = marks.filter((mark) => mark.value >= 0 && mark.value < Infinity);
    const rows = marks.map((mark) => [
      { head: element("span", { class: "method" }, element("span", { class: "symbol", "aria-hidden": "true" }, svg("svg", { viewBox: "-8 -8 16 16" }, symbol(mark.kind))), mark.method) },
      { text: mark.value >= 0 ? words(mark) : "—" },
      { text: mark.status, class: "status" },
    ]);
    const list = drawn.map((mark) => `${mark.method} ${words(mark)}`).join(", ");
    const label = `Axis of ${axis.norm} distance. ${sentence}. In order: ${list || "no number"}.`;
    return part(
      `${axis.norm}, ${axis.about}`,
      element("p", { class: `gap ${tone}` }, sentence[0].toUpperCase() + sentence.slice(1)),
      ...(drawn.length ? [axisFigure(drawn, axis, label)] : []),
      tableOfMarks(rows, axis),
    );
  }

  function tableOfMarks(rows, axis) {
    const made = table(["method", "value", "status"], rows, `Numbers in ${axis.norm}, ${axis.about}`);
    for (const row of made.querySelectorAll("tr")) row.lastChild.classList.remove("number");
    return made;
  }

  function axisFigure(marks, { tone, low, high }, label) {
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
      ...(named ? [svg("text", { x: middle, y: 18 }, "gap")] : []),
      svg("line", { x1: "2%", x2: "98%", y1: base, y2: base, class: "base" }),
      ...scale.ticks.flatMap((tick) => [
        svg("line", { x1: x(tick), x2: x(tick), y1: base, y2: base + 4, class: "base" }),
        svg("text", { x: x(tick), y: base + 18, class: "tick" }, String(Number(tick.toPrecision(3)))),
      ]),
      ...marks.map((mark) => {
        const lane = LANES[mark.kind] ?? 28;
        return svg(
          "svg",
          { x: x(mark.value), overflow: "visible", "aria-hidden": "true" },
          svg("title", {}, `${mark.method}: ${mark.text}`),
          svg("line", { x1: 0, x2: 0, y1: lane, y2: base, class: `stem is-${mark.kind}` }),
          svg("g", { transform: `translate(${mark.kind === "witness" ? 6 : LANES[mark.kind] ? -6 : 0} ${lane})` }, symbol(mark.kind)),
        );
      }),
    );
  }

  // A plane through the input

  const SIDE = 400; // units of the drawing
  const DASHES = ["none", "7 4", "2 4", "9 3 2 3"];
  const CROSSES = ["M-5-5 5 5M5-5-5 5", "M0-7V7M-7 0H7"];

  function planeView(plane, name, short) {
    const half = SIDE / 2;
    const at = ([a, b]) => [half * (1 + a), half * (1 - b)]; // from -1 to 1 each
    const inUnits = ([a, b]) => at([a / plane.extent, b / plane.extent]);
    const closed = (points) => `M${points.map((point) => point.map((each) => each.toFixed(1)).join(" ")).join("L")}z`;
    const pairs = (ring) => Array.from({ length: ring.length / 2 }, (_, i) => at([ring[2 * i] / 1000, ring[2 * i + 1] / 1000]));
    const regions = plane.classes.map((each, i) => {
      const kind = `c${i}`;
      return svg("path", { class: `region ${kind}`, "fill-rule": "evenodd", d: each.outline.map((ring) => closed(pairs(ring))).join("") });
    });
    const names = plane.classes.flatMap((each, i) => {
      if (!each.at) return [];
      const [x, y] = at(each.at);
      const text = short(each.class);
      const room = 4 * text.length + 6; // of half the text
      const inside = Math.max(room, Math.min(SIDE - room, x));
      const below = Math.abs(y - half) < 18 && Math.abs(inside - half) < room + 8 ? half + 24 : y; // not across the input
      return [svg("text", { x: inside.toFixed(1), y: below.toFixed(1), class: `c${i}` }, text)];
    });
    const balls = plane.balls.map((ball, i) => svg("path", { class: "ball", "stroke-dasharray": DASHES[i % DASHES.length], d: closed(ball.outline.map(inUnits)) }));
    const crosses = plane.places.map((place, i) => {
      const [x, y] = inUnits(place.at);
      return svg("path", { class: "cross", d: CROSSES[i], transform: `translate(${x.toFixed(1)} ${y.toFixed(1)})` });
    });
    const figure = svg(
      "svg",
      { class: "plane", viewBox: `0 0 ${SIDE} ${SIDE}`, role: "img", "aria-label": spokenPlane(plane, name) },
      svg("rect", { width: SIDE, height: SIDE, class: "region c8" }),
      ...regions,
      ...balls,
      ...names,
      svg("circle", { cx: half, cy: half, r: 4, class: "centre" }),
      ...crosses,
    );
    return part("A plane through the input", element("div", { class: "plane-row" }, figure, legend(plane, name)), planeNote(plane));
  }

  const percent = (share) => (share < 0.01 ? "less than 1 %" : share > 0.99 && share < 1 ? "more than 99 %" : `${Math.round(100 * share)} %`);

  function sharesOf(plane, name) {
    const shares = plane.classes.map((each) => [name(each.class), each.share]);
    return plane.others > 0 ? [...shares, ["other classes", plane.others]] : shares;
  }

  function spokenPlane(plane, name) {
    const shares = sharesOf(plane, name).map(([each, share]) => `${each} ${percent(share)}`);
    const places = plane.places.map((place) => `The adversarial example in ${place.norm} lies ${Number(Math.hypot(...place.at).toPrecision(3))} from the input in l2.`);
    const balls = plane.balls.map((ball) => `The certified ball of radius ${ball.text} in ${ball.norm} is drawn.`);
    return [`Classes in a plane through the input: ${shares.join(", ")}.`, ...places, ...balls].join(" ");
  }

  function legend(plane, name) {
    const key = (text, ...children) =>
      element("li", {}, svg("svg", { viewBox: "-9 -9 18 18", class: "key", "aria-hidden": "true" }, ...children), element("span", {}, text));
    const color = (i) => (i < plane.classes.length ? i : 8);
    return element(
      "ul",
      { class: "legend" },
      ...sharesOf(plane, name).map(([each, share], i) => key(`${each}, ${percent(share)}`, svg("rect", { x: -8, y: -8, width: 16, height: 16, class: `region c${color(i)}` }))),
      key("the input", svg("circle", { r: 4, class: "centre" })),
      ...plane.places.map((place, i) => key(`adversarial example in ${place.norm}`, svg("path", { class: "cross", d: CROSSES[i] }))),
      ...plane.balls.map((ball, i) => key(`certified in ${ball.norm}: ${ball.text}`, svg("path", { d: "M-8 0H8", class: "ball", "stroke-dasharray": DASHES[i % DASHES.length] }))),
    );
  }

  function planeNote(plane) {
    const across = Number((2 * plane.extent).toPrecision(3));
    const outside = plane.outside > 0 ? ` ${Math.round(100 * plane.outside)} % of its points are outside of the box of valid inputs.` : "";
    return element(
      "p",
      { class: "note" },
      `To the right: ${plane.first}. Upwards: ${plane.second}. The plane is ${across} wide in input units; balls are cut as their norm says. Classes are those of the model itself at ${plane.points} points, with straight lines between them.${outside}`,
    );
  }

  // Logits

  function logitView(input, name) {
    const { rows, classes } = input.logits;
    const predicted = [input.prediction, ...input.neighbours.map((each) => each.class)];
    const body = rows.map(([label, own, others]) => [
      { head: name(label) },
      ...[own, ...others].map((text, i) => ({ text: text || "—", class: predicted[i] === label && "largest" })),
    ]);
    const heads = ["class", "input", ...input.neighbours.map((each) => each.norm)];
    const some = rows.length < classes ? `${rows.length} of ${classes} classes, with the largest logits of the input. ` : "";
    const others = input.neighbours.length ? "Norms stand for their adversarial examples. " : "";
    return part("Logits", table(heads, body, "Logits"), element("p", { class: "note" }, `${some}${others}The class predicted is bold.`));
  }
}
