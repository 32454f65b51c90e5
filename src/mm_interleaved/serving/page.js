// Joins the document to the page's events: "select" moves or removes a segment, "click" goes on from it, "input" edits it. Words that were typed stay in
// their field, and are sent again when the document is redrawn, until the server's document holds them: no redraw can undo them.
const typed = new Map();
const send = (key, text) => trigger("input", { key, text });
const keep = ({ target }) => {
  if (target.matches("textarea") && target.value !== (typed.get(target.dataset.key) ?? target.dataset.text)) {
    typed.set(target.dataset.key, target.value);
    send(target.dataset.key, target.value);
  }
};
const redraw = () => {
  const boxes = [...element.querySelectorAll("textarea")];
  for (const box of boxes) {
    const { key, text } = box.dataset;
    if (typed.get(key)?.trim() === text && box !== document.activeElement) typed.delete(key);
    const words = typed.get(key) ?? text;
    if (box.value !== words) box.value = words;
    if (words.trim() !== text) send(key, words);
  }
  for (const key of typed.keys()) if (!boxes.some((box) => box.dataset.key === key)) typed.delete(key);
};
element.addEventListener("click", ({ target }) => {
  if (!target.matches("button")) return;
  const { act, key } = target.dataset;
  trigger(act === "up" || act === "remove" ? "select" : "click", { act, key });
});
for (const name of ["input", "focusout"]) element.addEventListener(name, keep);
watch("value", redraw);
redraw();
