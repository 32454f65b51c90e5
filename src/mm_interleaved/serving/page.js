// The page's side of what is done to the document. Everything stands in one line: the server is asked for one thing after another, each when the one
// before is answered, so nothing overtakes. What is to be seen comes back on a stream of its own, which the browser opens anew when it was broken.
// Words that were typed stay in their field until the server has them.
window.page = (() => {
  const tab = (sessionStorage.tab ??= crypto.randomUUID().slice(0, 8)); // outlives a reload
  const seen = { segments: [], growing: "", told: "", lost: "", version: 0 }, typed = new Map(), composed = [], parser = document.createElement("template");
  let sheet, growing, told, giveBack, settings, away = false, line = Promise.resolve();

  // Asks the server for an act. Whether it was done.
  const ask = (act, given = {}) => line = line.then(async () => {
    const asked = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(given) };
    const answer = await fetch(`/act/${tab}/${act}`, asked);
    if (!answer.ok) throw new Error(answer.status);
    return answer.json();
  }).catch(lost);
  const lost = () => { away = true; told.innerHTML = seen.lost; return false; };

  const set = (names, values) => ask("set", settings = Object.fromEntries(names.map((name, at) => [name, values[at]])));

  // What was composed leaves the composer at the click, so that no second click takes it too; refused, it goes back before what was written since.
  const compose = (act, made, others = {}) => {
    const { text, files } = made ?? {}, given = { text: text ?? "", pictures: (files ?? []).map(({ path }) => path), ...others };
    ask(act, given).then((done) => done || goBack({ text, files }));
    return { text: "", files: [] };
  };
  const goBack = (made) => { composed.push(made); giveBack(); };
  const refused = (now) => {
    const all = [...composed.splice(0), now ?? {}];
    return { text: all.map(({ text }) => text).filter(Boolean).join("\n\n"), files: all.flatMap(({ files }) => files ?? []) };
  };

  const press = ({ target }) => {
    const { act } = target.dataset;
    if (act) ask(act, { key: target.closest("section").dataset.key });
  };
  const type = ({ target }) => {
    const { key } = target.closest("section").dataset;
    typed.set(key, target.value);
    ask("edit", { key, text: target.value });
  };

  // A segment keeps its place on the page and in the reader's hand: its nodes stay, and only what differs is changed.
  const update = (old, fresh) => {
    old.className = fresh.className;
    for (const [at, node] of [...fresh.children].entries()) {
      const kept = old.children[at];
      if (kept.outerHTML === node.outerHTML) continue;
      if (node.matches("textarea") && kept.matches("textarea")) for (const { name, value } of node.attributes) kept.setAttribute(name, value);
      else kept.replaceWith(node);
    }
    return old;
  };
  const redraw = () => {
    const old = new Map([...sheet.children].map((node) => [node.dataset.key, node])), focus = document.activeElement;
    parser.innerHTML = seen.segments.join("");
    const nodes = [...parser.content.children].map((node) => old.has(node.dataset.key) ? update(old.get(node.dataset.key), node) : node);
    for (const [key, node] of old) {
      if (nodes.includes(node)) continue;
      // A server that was started anew has other keys: what it was never told goes back to the composer.
      if (away && typed.has(key)) goBack({ text: typed.get(key) });
      typed.delete(key);
      node.remove();
    }
    nodes.forEach((node, at) => sheet.children[at] === node || sheet.insertBefore(node, sheet.children[at] ?? null));
    if (sheet.contains(focus) && focus !== document.activeElement) focus.focus({ preventScroll: true });
    for (const box of sheet.querySelectorAll("textarea")) {
      const { text } = box.dataset, { key } = box.closest("section").dataset;
      if (typed.get(key)?.trim() === text && box !== document.activeElement) typed.delete(key);
      const words = typed.get(key) ?? text;
      if (box.value !== words) box.value = words;
    }
  };

  const connect = (element, trigger) => {
    [sheet, growing, told] = ["#sheet", "#growing", "#told"].map((name) => element.querySelector(name));
    giveBack = () => trigger("submit");
    sheet.addEventListener("click", press);
    sheet.addEventListener("input", type);
    const stream = new EventSource(`/shown/${tab}`);
    stream.onmessage = ({ data }) => {
      const fresh = JSON.parse(data); // what differs from the message before; all of it in the first one
      Object.assign(seen, fresh);
      if ("segments" in fresh) redraw();
      if ("growing" in fresh) growing.innerHTML = fresh.growing;
      if ("told" in fresh) told.innerHTML = fresh.told;
      sheet.dataset.version = seen.version;
      away = false;
    };
    stream.onerror = lost;
    stream.onopen = () => {
      if (settings) ask("set", settings);
      for (const [key, text] of typed) ask("edit", { key, text });
    };
  };
  return { ask, set, compose, refused, connect };
})();
