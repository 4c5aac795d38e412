"use strict";
function sortKey(cell) {
  if (cell.dataset.sort !== undefined) return cell.dataset.sort;
  const text = cell.innerText.trim().replace("\u2212", "-");
  if (text === "\u2013") return "";
  const number = text.match(/^[+-]?[\d.,]+(?=\s|%|\u00d7|$)/);
  return number ? number[0].replaceAll(",", "") : text;
}
function sortBy(table, column, button) {
  const head = button.closest("th"), body = table.tBodies[0];
  const down = head.getAttribute("aria-sort") === "descending";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "ascending" : "descending");
  const value = row => sortKey(row.cells[column]);
  const order = (a, b) => {
    const x = value(a), y = value(b);
    if (x === "" || y === "") return (x === "") - (y === "");
    const both = !isNaN(x) && !isNaN(y), less = both ? x - y : x.localeCompare(y);
    return down ? less : -less;
  };
  body.append(...[...body.rows].sort(order));
}
for (const table of document.querySelectorAll("table.sortable"))
  [...table.tHead.rows[0].cells].forEach((cell, column) => {
    const button = cell.querySelector("button");
    button.addEventListener("click", () => sortBy(table, column, button));
  });
addEventListener("beforeprint", () => { for (const one of document.querySelectorAll("details")) one.open = true; });
for (const button of document.querySelectorAll("button.copy"))
  button.addEventListener("click", async () => {
    const rows = [...document.getElementById(button.dataset.table).rows];
    const plain = cell => cell.innerText.replace(/\s+/g, " ").trim();
    const text = rows.map(row => [...row.cells].map(plain).join("\t")).join("\n");
    let done = true;
    try { await navigator.clipboard.writeText(text); } catch {
      const area = document.createElement("textarea");
      area.value = text; document.body.append(area); area.select();
      done = document.execCommand("copy"); area.remove();
    }
    button.textContent = done ? "Copied" : "Could not copy";
  });
