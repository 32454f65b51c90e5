// The page's side of what is done to the document. Everything stands in one line: the server is asked for one thing after another, each when the one
// before is answered, so nothing overtakes and nothing falls between two redraws. Words that were typed stay in their field until the server has them.
window.page = (() => {
  const typed = new Map(), sending = new Set(), composed = [], clicks = [], element = document.createElement("div");
  let joined, gradio, tab, line = new Promise((resolve) => { joined = resolve; });

  // Asks the server to act; `given` may still be on its way, or come to nothing. Whether it was done.
  const ask = (act, given = {}) => {
    line = line.then(async () => {
      const all = typeof given === "function" ? await given() : given;
      const done = !all || await gradio.server.act({ tab, act, ...all });
      if (done === null) throw new Error("the server knows this tab no more");
      element.classList.remove("lost");
      return done;
    }).catch((error) => { console.error(error); element.classList.add("lost"); return false; });
    return line;
  };
  const options = (names, values) => Object.fromEntries(names.map((name, at) => [name, values[at]]));

  // What was composed leaves the composer at the click, so that no second click takes it too; refused, it goes back before what was written since.
  const compose = (act, given, others = {}) => {
    ask(act, { composed: given, ...others }).then((done) => done || (composed.push(given ?? {}), gradio.refused()));
    return { text: "", files: [] };
  };
  const refused = (now) => {
    const all = [...composed.splice(0), now ?? {}];
    return { text: all.map(({ text }) => text).filter(Boolean).join("\n\n"), files: all.flatMap(({ files }) => files ?? []) };
  };

  // Acts that need the settings take their place in the line at once, and get the settings from Gradio.
  const again = (settings) => clicks.shift()(settings);
  element.addEventListener("click", ({ target }) => {
    if (!target.matches("button")) return;
    const { key } = target.closest("section").dataset, { act } = target.dataset;
    if (act === "up" || act === "remove") return void ask(act, { key });
    const settings = new Promise((resolve) => clicks.push(resolve));
    ask(act, async () => ({ key, ...(await settings) }));
    gradio.again();
  });

  const send = (key) => {
    if (sending.has(key)) return; // the words that stand there when its turn comes
    sending.add(key);
    ask("edit", () => (sending.delete(key), typed.has(key) && { key, text: typed.get(key) }));
  };
  const keep = ({ target }) => {
    if (!target.matches("textarea")) return;
    const { key } = target.closest("section").dataset;
    if (target.value === (typed.get(key) ?? target.dataset.text)) return;
    typed.set(key, target.value);
    send(key);
  };
  for (const name of ["input", "focusout"]) element.addEventListener(name, keep);

  // A segment keeps its place on the page and in the reader's hand: its nodes stay, and only what differs is changed.
  const update = (old, fresh) => {
    old.className = fresh.className;
    for (const [at, node] of [...fresh.children].entries()) {
      const kept = old.children[at];
      if (kept.outerHTML === node.outerHTML) continue;
      if (node.matches("textarea") && kept.matches("textarea")) for (const { name, value } of node.attributes) kept.setAttribute(name, value);
      else kept.replaceWith(node.cloneNode(true));
    }
    return old;
  };
  const redraw = () => {
    const sheet = document.createElement("template");
    sheet.innerHTML = gradio.props.value;
    const fresh = sheet.content.firstElementChild, focus = document.activeElement;
    if (!tab && fresh?.dataset.tab) joined(tab = fresh.dataset.tab);
    if (fresh?.dataset.state === undefined) return;
    const old = new Map([...element.children].map((node) => [node.dataset.key, node]));
    const nodes = [...fresh.children].map((node) => old.has(node.dataset.key) ? update(old.get(node.dataset.key), node) : node);
    for (const node of old.values()) if (!nodes.includes(node)) node.remove(), typed.delete(node.dataset.key);
    nodes.forEach((node, at) => element.children[at] === node || element.insertBefore(node, element.children[at] ?? null));
    if (element.contains(focus) && focus !== document.activeElement) focus.focus({ preventScroll: true });
    element.dataset.lost = fresh.dataset.lost;
    for (const box of element.querySelectorAll("textarea")) {
      const { text } = box.dataset, { key } = box.closest("section").dataset;
      if (typed.get(key)?.trim() === text && box !== document.activeElement) typed.delete(key);
      const words = typed.get(key) ?? text;
      if (box.value !== words) box.value = words;
      if (typed.has(key) && words.trim() !== text && !fresh.dataset.state) send(key); // refused while the model worked
    }
  };
  const connect = (given) => {
    gradio = given;
    gradio.element.append(element);
    gradio.watch("value", redraw);
    redraw();
  };
  return { ask, options, compose, refused, again, connect };
})();
