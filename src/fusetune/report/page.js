"use strict";
// Sorting and filtering. Without this script the page shows the same rows in their own order.
const valueOf = (cell) => {
  const text = cell.dataset.value ?? cell.textContent.trim();
  const number = Number.parseFloat(text.replace("\u2212", "-").replaceAll(",", ""));
  return Number.isNaN(number) ? text : number;
};
const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b)));
function sort(table, column, head) {
  const down = head.getAttribute("aria-sort") === "ascending";
  const body = table.tBodies[0];
  const rows = [...body.rows].sort((a, b) => compare(valueOf(a.cells[column]), valueOf(b.cells[column])));
  body.append(...(down ? rows.reverse() : rows));
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
}
for (const table of document.querySelectorAll("table.sortable")) {
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    if (head.classList.contains("wide")) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    button.addEventListener("click", () => sort(table, column, head));
    head.append(button);
  });
}
const filter = document.getElementById("filter");
if (filter) {
  const rows = [...document.querySelectorAll(".mistakes > li")];
  const show = (name) => {
    for (const row of rows) row.hidden = name !== "" && !JSON.parse(row.dataset.classes).includes(name);
    const count = rows.filter((row) => !row.hidden).length;
    document.getElementById("filter-count").textContent = `${count} of ${rows.length} mistakes`;
  };
  filter.hidden = false;
  document.getElementById("filter-class").addEventListener("change", (event) => show(event.target.value));
  show("");
}
// What a link leads to must be seen: browsers open closed parts by themselves only where they scroll to them first.
const reveal = () => {
  const target = location.hash && document.getElementById(location.hash.slice(1));
  for (let part = target; part; part = part.parentElement) if (part.tagName === "DETAILS") part.open = true;
  if (target) target.scrollIntoView();
};
addEventListener("hashchange", reveal);
reveal();
