"use strict";
// Arrow keys, Home and End move through a heat map; the check of the selected cell is told below it.
document.documentElement.classList.add("scripts-run");
document.querySelectorAll("table.heat").forEach((table, number) => {
  const told = document.getElementById("told" + number);
  const rows = Array.from(table.tBodies[0].rows, (row) => Array.from(row.cells).slice(1));
  if (!rows.length || !rows[0].length) return;
  const cells = rows.flat();
  let selected = cells.find((cell) => cell.classList.contains("fail")) || cells[0];

  const show = (cell) => {
    selected.tabIndex = -1;
    selected = cell;
    cell.tabIndex = 0;
    told.textContent = cell.title || "nothing was checked here";
  };
  const moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0], Home: [0, -Infinity], End: [0, Infinity] };

  table.setAttribute("role", "grid");
  cells.forEach((cell) => { cell.tabIndex = -1; });
  show(selected);
  table.addEventListener("focusin", (event) => { if (cells.includes(event.target)) show(event.target); });
  table.addEventListener("keydown", (event) => {
    const move = moves[event.key];
    if (!move || event.ctrlKey || event.altKey || event.metaKey || event.shiftKey || !cells.includes(event.target)) return;
    event.preventDefault();
    const y = rows.findIndex((row) => row.includes(selected));
    const within = (value, size) => Math.min(Math.max(value, 0), size - 1);
    rows[within(y + move[0], rows.length)][within(rows[y].indexOf(selected) + move[1], rows[y].length)].focus();
  });
});
