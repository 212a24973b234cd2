// One input: rows and addresses such as #input-8 ask for it, and the document is told by the event "show-input".
//
// Contract with the view (input_view.js), which fills #input-view: the event's detail holds the index of the input in
// its data set and the number of the model. The address #input-8 means model 0, #input-8-model-1 the second model.
"use strict";

{
  const section = document.getElementById("input");
  const view = document.getElementById("input-view");
  const title = document.getElementById("input-title");
  let shown = null;
  let opener = null;

  report.address = (index, model) => `#input-${index}${model ? `-model-${model}` : ""}`;

  // The order of previous and next: that of the table as it is sorted and filtered.
  report.order = report.data.models.map((model) => model.indices);

  function asked() {
    const match = /^#input-(\d+)(?:-model-(\d+))?$/.exec(location.hash);
    if (!match) return null;
    const [index, model] = [Number(match[1]), Number(match[2] || 0)];
    const known = report.data.models[model];
    return known && known.indices.includes(index) ? { index, model } : null;
  }

  function show() {
    const detail = asked();
    if (!detail) return close(false);
    shown = detail;
    const { name } = report.data.models[detail.model];
    title.textContent = `Input ${detail.index}` + (name ? `, ${name}` : "");
    for (const row of document.querySelectorAll("tr[aria-current]")) row.removeAttribute("aria-current");
    for (const row of document.querySelectorAll(`[data-model="${detail.model}"] tr[data-index="${detail.index}"]`)) {
      row.setAttribute("aria-current", "true");
    }
    document.dispatchEvent(new CustomEvent("show-input", { detail }));
    if (!section.contains(document.activeElement)) opener = document.activeElement;
    reveal(view.childElementCount > 0);
    if (!section.hidden) {
      title.focus({ preventScroll: true });
      section.scrollTop = 0;
    }
  }

  // The drawer makes the page narrower: the row that asked for it keeps its place on the screen.
  function reveal(open) {
    const row = opener?.closest("tr");
    const before = row?.getBoundingClientRect().top;
    section.hidden = !open;
    document.body.classList.toggle("with-input", open);
    if (row) scrollBy({ top: row.getBoundingClientRect().top - before, behavior: "instant" });
    else if (open) document.querySelector("tr[aria-current]")?.scrollIntoView({ block: "center" });
  }

  function close(forget = true) {
    if (section.hidden && !shown) return;
    shown = null;
    reveal(false);
    for (const row of document.querySelectorAll("tr[aria-current]")) row.removeAttribute("aria-current");
    if (forget) history.replaceState(null, "", location.pathname + location.search);
    if (opener?.isConnected) opener.focus({ preventScroll: true });
    opener = null;
  }

  function step(by) {
    const order = report.order[shown.model];
    const next = order[(order.indexOf(shown.index) + by + order.length) % order.length];
    if (next !== undefined) report.showInput(next, shown.model, true);
  }

  report.showInput = (index, model, replace = false) => {
    const address = report.address(index, model);
    if (location.hash === address || replace) {
      history.replaceState(null, "", address);
      show();
    } else {
      location.hash = address; // the event "hashchange" follows
    }
  };

  section.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button?.dataset.step) step(Number(button.dataset.step));
    if (button && "close" in button.dataset) close();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && shown) close();
  });
  addEventListener("hashchange", show);
  document.addEventListener("DOMContentLoaded", show); // all scripts have run, the view's own too
}
