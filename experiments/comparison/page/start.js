"use strict";
// Reads the data of the page and starts the scripts that draw them.

function fillTable(table) {
  const node = document.getElementById("table"), head = node.createTHead().insertRow();
  for (const column of table.columns) {
    const cell = document.createElement("th");
    cell.scope = "col";
    cell.textContent = column;
    head.append(cell);
  }
  const body = node.createTBody();
  for (const row of table.rows) {
    const line = body.insertRow();
    for (const cell of row) {
      const data = line.insertCell();
      data.textContent = cell.text;
      if (cell.notes.length) {
        const mark = document.createElement("sup");
        mark.textContent = ` ${cell.notes.join()}`;
        data.append(mark);
      }
    }
  }
  for (const text of table.footnotes) {
    const item = document.createElement("li");
    item.textContent = text;
    document.getElementById("footnotes").append(item);
  }
}

const data = JSON.parse(document.getElementById("data").textContent);
document.getElementById("title").textContent = document.title = data.title;
for (const text of data.warnings) {
  const item = document.createElement("li");
  item.textContent = text;
  document.getElementById("warnings").append(item);
}
fillTable(data.table);
new Chart(data);
new Viewer(data);
