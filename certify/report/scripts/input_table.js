// Tables of inputs: filtered, sorted, and drawn a page at a time, so that ten thousand inputs are no burden.
"use strict";

{
  const PAGE = 50; // rows that are drawn at once

  class InputTables {
    constructor(section) {
      this.section = section;
      this.number = Number(section.dataset.model);
      this.data = report.data.models[this.number];
      this.tables = [...section.querySelectorAll("table.inputs")];
      this.found = this.data.indices.map((_, i) => i); // places of the inputs that pass the filters, as sorted
      this.key = null; // place -> what is sorted by; null for the order of the data set
      this.page = 0;
      section.dataset.sortedTogether = "";
      this.headings();
      this.filters(section.querySelector(".filters"));
      for (const note of section.querySelectorAll(".left-out")) note.hidden = true;
      for (const table of this.tables) this.listen(table);
      this.draw();
    }

    className(number) {
      const name = this.data.classes[number];
      return name === undefined ? String(number) : `${number} ${name}`;
    }

    // Sorting

    headings() {
      this.tables.forEach((table, t) => {
        const [first, second] = table.tHead.rows;
        [this.data.indices, this.data.labels, this.data.predictions].forEach((values, i) => {
          this.sortable(first.cells[i], (place) => values[place]);
        });
        this.data.tables[t].columns.forEach((column, c) => {
          this.sortable(second.cells[2 * c], (place) => report.number(column.texts[place]));
          this.sortable(second.cells[2 * c + 1], (place) => column.statuses[column.codes[place]]);
        });
      });
    }

    sortable(heading, key) {
      report.sortable(heading, (descending) => {
        this.key = key;
        this.descending = descending;
        this.sort();
        this.page = 0;
        this.draw();
      });
    }

    sort() {
      if (!this.key) return;
      const keys = new Map(this.found.map((place) => [place, this.key(place)]));
      this.found.sort((a, b) => report.compare(keys.get(a), keys.get(b), this.descending) || a - b);
    }

    // Filters

    filters(bar) {
      this.search = report.element("input", { type: "search", placeholder: "class, status, #number" });
      this.right = this.select({ "": "right and wrong", right: "right only", wrong: "wrong only" });
      this.status = this.statusSelect();
      const labels = [["find", this.search], ["prediction", this.right], ["status", this.status]];
      if (this.data.groups.length) {
        const names = [...new Set(this.data.groups)].sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
        this.group = this.select({ "": "all groups", ...Object.fromEntries(names.map((name) => [`=${name}`, name])) });
        labels.push(["group", this.group]);
      }
      for (const [words, control] of labels) {
        control.addEventListener("input", () => this.filter());
        bar.append(report.element("label", {}, report.element("span", {}, words), control));
      }
      this.said = report.element("output", {});
      const turn = (by) => () => this.turn(by);
      this.back = report.element("button", { type: "button", "aria-label": "Previous rows", onclick: turn(-1) }, "‹");
      this.forth = report.element("button", { type: "button", "aria-label": "Next rows", onclick: turn(1) }, "›");
      bar.append(report.element("div", { class: "pages" }, this.said, this.back, this.forth));
      bar.hidden = false;
    }

    select(options) {
      const made = Object.entries(options).map(([value, text]) => report.element("option", { value }, text));
      return report.element("select", {}, ...made);
    }

    statusSelect() {
      const made = this.select({ "": "any status" });
      this.data.tables.forEach((table, t) => {
        table.columns.forEach((column, c) => {
          const label = `${column.method}, ${table.norm}`;
          const tones = [...new Set(column.tones)].filter(Boolean);
          const option = (tone) => report.element("option", { value: `${t} ${c} ${tone}` }, tone.replaceAll("-", " "));
          made.append(report.element("optgroup", { label }, ...tones.map(option)));
        });
      });
      return made;
    }

    filter() {
      const words = this.search.value.toLowerCase().split(/\s+/).filter(Boolean);
      const [t, c, tone] = this.status.value.split(" ");
      const column = tone ? this.data.tables[t].columns[c] : null;
      const group = this.group?.value.slice(1);
      const { labels, predictions, groups, indices } = this.data;
      this.found = indices
        .map((_, place) => place)
        .filter((i) => !this.right.value || (labels[i] === predictions[i]) === (this.right.value === "right"))
        .filter((i) => !column || column.tones[column.codes[i]] === tone)
        .filter((i) => !group || groups[i] === group)
        .filter((i) => words.every((word) => (word[0] === "#" ? word === `#${indices[i]}` : this.text(i).includes(word))));
      this.sort();
      this.page = 0;
      this.draw();
    }

    // All words of an input, made when somebody first looks for one.
    text(place) {
      this.texts ??= this.data.indices.map((index, i) => {
        const statuses = this.data.tables.flatMap(({ columns }) => columns.map((each) => each.statuses[each.codes[i]]));
        const classes = [this.data.labels[i], this.data.predictions[i]].map((number) => this.className(number));
        return [index, ...classes, this.data.groups[i] ?? "", ...statuses].join(" ").toLowerCase();
      });
      return this.texts[place];
    }

    // Rows

    turn(by) {
      this.page = Math.max(0, Math.min(this.page + by, Math.ceil(this.found.length / PAGE) - 1));
      this.draw();
    }

    draw() {
      const from = this.page * PAGE;
      const places = this.found.slice(from, from + PAGE);
      this.tables.forEach((table, t) => {
        const rows = places.map((place, i) => this.row(place, this.data.tables[t].columns, i === 0));
        table.tBodies[0].replaceChildren(...rows);
        table.parentElement.scrollTop = 0;
      });
      const all = this.data.indices.length.toLocaleString("en");
      const some = this.found.length.toLocaleString("en");
      const range = places.length ? `${from + 1}–${from + places.length} of ${some}` : "none";
      this.said.textContent = this.found.length === this.data.indices.length ? range : `${range} (${all} in all)`;
      this.back.disabled = this.page === 0;
      this.forth.disabled = from + PAGE >= this.found.length;
      report.order[this.number] = this.found.map((place) => this.data.indices[place]);
    }

    row(place, columns, first) {
      const { indices, labels, predictions } = this.data;
      const index = indices[place];
      const link = report.element("a", { href: report.address(index, this.number), tabindex: -1 }, String(index));
      const wrong = labels[place] !== predictions[place];
      const cells = columns.flatMap((column) => {
        const code = column.codes[place];
        return [
          report.element("td", { class: "group number" }, column.texts[place]),
          report.element("td", { class: column.tones[code] }, column.statuses[code]),
        ];
      });
      return report.element(
        "tr",
        { tabindex: first ? 0 : -1, "data-index": index, "aria-current": location.hash === report.address(index, this.number) && "true" },
        report.element("th", { scope: "row", class: "number" }, link),
        report.element("td", {}, this.className(labels[place])),
        report.element("td", { class: wrong && "wrong" }, this.className(predictions[place])),
        ...cells,
      );
    }

    listen(table) {
      const body = table.tBodies[0];
      body.addEventListener("click", (event) => {
        const row = event.target.closest("tr[data-index]");
        if (!row || getSelection().type === "Range") return; // somebody marks text
        event.preventDefault();
        this.focus(row);
        report.showInput(Number(row.dataset.index), this.number);
      });
      body.addEventListener("keydown", (event) => {
        const row = event.target.closest("tr[data-index]");
        const rows = [...body.rows];
        const at = rows.indexOf(row);
        const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: rows.length - 1 }[event.key];
        if (rows[to]) {
          event.preventDefault();
          this.focus(rows[to]);
        } else if (event.key === "Enter") {
          event.preventDefault();
          report.showInput(Number(row.dataset.index), this.number);
        }
      });
    }

    // One row at a time can be reached by the tabulator, the others from it by arrows.
    focus(row) {
      for (const other of row.parentElement.rows) other.tabIndex = other === row ? 0 : -1;
      row.focus();
    }
  }

  report.inputTables = [...document.querySelectorAll(".inputs-section")].map((section) => new InputTables(section));
}
