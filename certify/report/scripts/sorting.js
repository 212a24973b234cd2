// Tables whose headings sort them.
"use strict";

{
  // The number that a cell begins with; NaN where there is none.
  report.number = (text) => (text.startsWith("∞") ? Infinity : parseFloat(text.replace(/^[^\d.+-]+/, "")));

  const { compare } = new Intl.Collator("en", { numeric: true }); // made once: localeCompare makes one for each pair

  // Numbers before texts, and what has no value last, in whatever direction.
  report.compare = (a, b, descending) => {
    const missing = Number(Number.isNaN(a)) - Number(Number.isNaN(b));
    if (missing) return missing;
    const order = typeof a === "number" ? Math.sign(a - b) || 0 : compare(a, b);
    return descending ? -order : order;
  };

  // Makes a heading a button. `sort(descending)` is called for each change.
  report.sortable = (heading, sort) => {
    const words = [...heading.childNodes].filter((node) => node.nodeName !== "SMALL");
    const button = report.element("button", { type: "button", class: "sort" }, ...words);
    heading.prepend(button);
    button.addEventListener("click", () => {
      const descending = heading.getAttribute("aria-sort") === "ascending";
      sort(descending);
      report.markSorted(heading, descending);
    });
  };

  report.markSorted = (heading, descending) => {
    const scope = heading.closest("[data-sorted-together]") ?? heading.closest("table");
    for (const other of scope.querySelectorAll("[aria-sort]")) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
  };

  function value(row, column) {
    const cell = row.cells[column];
    const text = cell.firstChild ? cell.firstChild.textContent.trim() : "";
    return cell.classList.contains("number") ? report.number(text) : cell.textContent;
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    const body = table.tBodies[0];
    [...table.tHead.rows[0].cells].forEach((heading, column) => {
      report.sortable(heading, (descending) => {
        const rows = [...body.rows];
        rows.sort((a, b) => report.compare(value(a, column), value(b, column), descending));
        body.append(...rows);
      });
    });
  }
}
