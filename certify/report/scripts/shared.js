// What all scripts of the page share: its data, and short ways to make elements.
"use strict";

const report = {
  data: JSON.parse(document.getElementById("data-page").textContent),

  // An element with attributes and children; texts are inserted as text, never as HTML.
  element(name, attributes = {}, ...children) {
    return report.filled(document.createElement(name), attributes, children);
  },

  svg(name, attributes = {}, ...children) {
    return report.filled(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
  },

  filled(made, attributes, children) {
    for (const [key, value] of Object.entries(attributes)) {
      if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
      else if (value === true) made.setAttribute(key, "");
      else if (value !== false && value != null) made.setAttribute(key, value);
    }
    made.append(...children);
    return made;
  },

  // A share in percent, a lower bound rounded down and an upper bound up.
  percent(share, up = false) {
    const tenths = share * 1000;
    const near = Math.round(tenths);
    const exact = Math.abs(tenths - near) < 1e-6 ? near : up ? Math.ceil(tenths) : Math.floor(tenths);
    return (exact / 10).toFixed(1);
  },
};
