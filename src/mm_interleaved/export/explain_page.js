"use strict";
const told = document.getElementById("told"), data = JSON.parse(document.getElementById("data").textContent);
const figures = [...document.querySelectorAll(".strip figure")];
let lit = null, kept = null;
function draw(layer, name, attributes) {
  const made = layer.appendChild(document.createElementNS("http://www.w3.org/2000/svg", name));
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}
function show(key, element) {
  if (lit) lit.classList.remove("on");
  (lit = element).classList.add("on");
  figures.forEach((figure, image) => {
    const layer = figure.querySelector("svg"), { width, height } = layer.viewBox.baseVal, look = data[key].looks[image];
    layer.replaceChildren();
    figure.classList.toggle("idle", !look);
    figure.querySelector("output").textContent = look ? look.share : "";
    if (!look) return;
    for (const [x, y, weight] of look.points) draw(layer, "circle", { cx: x * width, cy: y * height, r: 20 * Math.sqrt(weight) });
    if (look.hottest) draw(layer, "circle", { cx: look.hottest[0] * width, cy: look.hottest[1] * height, r: 7, class: "hottest" });
  });
  told.textContent = data[key].told;
}
for (const word of document.querySelectorAll(".w")) {
  word.addEventListener("focus", () => show(word.dataset.key, word));
  word.addEventListener("mouseenter", () => show(word.dataset.key, word));
  word.addEventListener("mouseleave", () => kept && show(kept.dataset.key, kept));
  word.addEventListener("click", () => show(word.dataset.key, kept = word));
}
for (const grid of document.querySelectorAll(".grid")) {
  const side = Number(grid.dataset.side), width = grid.viewBox.baseVal.width / side, height = grid.viewBox.baseVal.height / side;
  const cells = Array.from({ length: side * side }, (_, index) =>
    draw(grid, "rect", { x: (index % side) * width, y: Math.floor(index / side) * height, width, height }));
  let at = 0;
  const go = (index) => show(`p${grid.dataset.picture}-${at = index}`, cells[index]);
  cells.forEach((cell, index) => ["mouseenter", "click"].forEach((name) => cell.addEventListener(name, () => go(index))));
  grid.addEventListener("focus", () => go(at));
  grid.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!step) return;
    event.preventDefault();
    const column = (at % side) + step[0], row = Math.floor(at / side) + step[1];
    if (Math.min(column, row) >= 0 && Math.max(column, row) < side) go(row * side + column);
  });
}
