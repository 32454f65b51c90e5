"use strict";
const told = document.getElementById("told"), data = JSON.parse(document.getElementById("readings").textContent);
const figures = [...document.querySelectorAll(".strip figure")], svg = "http://www.w3.org/2000/svg";
let lit = null, kept = null;
function show(key, element) {
  if (lit) lit.classList.remove("on");
  (lit = element).classList.add("on");
  const reading = data[key];
  figures.forEach((figure, image) => {
    const layer = figure.querySelector("svg"), look = reading.looks[image];
    layer.replaceChildren();
    figure.classList.toggle("idle", !look);
    figure.querySelector("output").textContent = look ? look.share : "";
    if (!look) return;
    for (const [x, y, weight] of look.points) dot(layer, x, y, 20 * Math.sqrt(weight));
    if (look.hottest) dot(layer, ...look.hottest, 7).setAttribute("class", "hottest");
  });
  told.textContent = reading.told;
}
function dot(layer, x, y, radius) {
  const circle = layer.appendChild(document.createElementNS(svg, "circle")), box = layer.viewBox.baseVal;
  circle.setAttribute("cx", x * box.width); circle.setAttribute("cy", y * box.height); circle.setAttribute("r", radius);
  return circle;
}
for (const word of document.querySelectorAll(".w")) {
  word.addEventListener("focus", () => show(word.dataset.key, word));
  word.addEventListener("mouseenter", () => show(word.dataset.key, word));
  word.addEventListener("mouseleave", () => kept && show(kept.dataset.key, kept));
  word.addEventListener("click", () => show(word.dataset.key, kept = word));
}
for (const grid of document.querySelectorAll(".grid")) {
  const cells = [...grid.querySelectorAll("rect")], side = Math.sqrt(cells.length);
  let at = 0;
  const go = (index) => show(cells[at = index].dataset.key, cells[at]);
  cells.forEach((cell, index) => ["mouseenter", "click"].forEach((name) => cell.addEventListener(name, () => go(index))));
  grid.addEventListener("focus", () => go(at));
  grid.addEventListener("keydown", (event) => {
    const row = Math.floor(at / side), column = at % side;
    const next = { ArrowLeft: [row, column - 1], ArrowRight: [row, column + 1], ArrowUp: [row - 1, column], ArrowDown: [row + 1, column] }[event.key];
    if (!next) return;
    event.preventDefault();
    if (Math.min(...next) >= 0 && Math.max(...next) < side) go(next[0] * side + next[1]);
  });
}
