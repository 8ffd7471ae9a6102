"use strict";
// Sorts a table by the column of a button; a second press turns the order round.
function valueOf(row, column) {
  const text = row.cells[column].dataset.v ?? row.cells[column].textContent.trim();
  const number = Number(text);
  return text !== "" && !Number.isNaN(number) ? number : text;
}
function compare(a, b) {
  const known = [a, b].map((value) => value !== "" && value !== "–");
  if (!known[0] || !known[1]) return known[1] - known[0];
  if (typeof a === "number" && typeof b === "number") return a - b;
  return String(a).localeCompare(String(b), undefined, { numeric: true });
}
function sort(button) {
  const head = button.closest("th");
  const body = head.closest("table").tBodies[0];
  const down = head.getAttribute("aria-sort") === "ascending";
  for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const column = head.cellIndex;
  const rows = Array.from(body.rows, (row) => [valueOf(row, column), row]);
  // What has no value comes last in either order.
  const missing = ([value]) => value === "" || value === "–";
  rows.sort((x, y) => {
    const order = compare(x[0], y[0]);
    return down && !missing(x) && !missing(y) ? -order : order;
  });
  body.append(...rows.map(([, row]) => row));
}
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => sort(button));
}
// A link into a folded part unfolds it, and paper shows all parts.
function unfold() {
  if (location.hash.length < 2) return;
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const folded = target && target.closest("details");
  if (folded) folded.open = true;
  if (target) target.scrollIntoView();
}
addEventListener("hashchange", unfold);
unfold();
const opened = [];
addEventListener("beforeprint", () => {
  for (const part of document.querySelectorAll("details:not([open])")) {
    part.open = true;
    opened.push(part);
  }
});
addEventListener("afterprint", () => {
  for (const part of opened.splice(0)) part.open = false;
});
