"use strict";
(() => {
  const find = (selector, within = document) => within.querySelector(selector);
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const list = find("#cards");
  const cards = all(".card", list);
  const byUri = new Map(cards.map((card) => [card.dataset.uri, card]));
  const places = new Map(cards.map((card) => [card, new Map(
    card.dataset.sections.split(" ").filter(Boolean).map((each) => {
      const [section, place] = each.split(":");
      return [section, Number(place)];
    }),
  )]));
  const options = all("#known option");
  const known = new Set(options.map((option) => option.value));
  const byName = new Map(options.map((option) => [option.textContent.trim().toLowerCase(), option.value]));
  const filters = find("#filters");
  const key = `monkeyray-review-${document.body.dataset.review}`;
  let current = null;

  // The user's label and the model's, by URI. Pages of one review share them if the browser lets
  // files share local storage.
  const reviewed = new Map();
  let keeps = true;
  function load() {
    try {
      for (const [uri, entry] of Object.entries(JSON.parse(localStorage.getItem(key) || "{}")))
        if (typeof entry.label === "string" && entry.label) reviewed.set(uri, entry);
    } catch {
      keeps = false;
    }
  }
  function save(uri) {
    try {
      // Another page may have written since.
      const kept = JSON.parse(localStorage.getItem(key) || "{}");
      if (reviewed.has(uri)) kept[uri] = reviewed.get(uri);
      else delete kept[uri];
      localStorage.setItem(key, JSON.stringify(kept));
    } catch {
      keeps = false;
    }
  }

  function paint(card) {
    const label = reviewed.get(card.dataset.uri)?.label;
    card.classList.toggle("confirmed", label === card.dataset.label);
    card.classList.toggle("changed", label !== undefined && label !== card.dataset.label);
    let listed = false;
    for (const button of all(".choices button", card)) {
      const pressed = button.value === label;
      listed ||= pressed;
      button.setAttribute("aria-pressed", String(pressed));
    }
    const input = find("input", card);
    if (input) {
      input.value = label === undefined || listed ? "" : label;
      input.classList.toggle("set", input.value !== "");
    }
  }

  function setLabel(card, label) {
    const { uri } = card.dataset;
    if (label === null) reviewed.delete(uri);
    else reviewed.set(uri, { label, predicted: card.dataset.label });
    save(uri);
    paint(card);
    count();
  }

  function written(text) {
    const label = text.trim();
    return known.has(label) ? label : byName.get(label.toLowerCase()) || label;
  }

  const visible = () => [...list.children].filter((card) => !card.hidden);

  function count() {
    const shown = visible().length;
    const changed = [...reviewed.values()].filter((entry) => entry.label !== entry.predicted).length;
    find("#count").textContent = `${shown} of ${cards.length} shown, ${reviewed.size} reviewed, ${changed} changed`
      + (keeps ? "" : ". This browser cannot keep labels: export before you leave");
    const button = find("#export");
    button.disabled = reviewed.size === 0;
    button.textContent = ["Export", "Export 1 label"][reviewed.size] ?? `Export ${reviewed.size} labels`;
  }

  function apply() {
    const wanted = Object.fromEntries(new FormData(filters));
    const words = wanted.text.toLowerCase().split(/\s+/).filter(Boolean);
    const order = (card) => wanted.section
      ? places.get(card).get(wanted.section) ?? Infinity : cards.indexOf(card);
    for (const card of cards) {
      const { label, site, status, text, uri } = card.dataset;
      const entry = reviewed.get(uri);
      card.hidden = !((!wanted.section || places.get(card).has(wanted.section))
        && (!wanted.label || label === wanted.label)
        && (!wanted.site || site === wanted.site)
        && (!wanted.status || status === wanted.status)
        && (!wanted.done || (wanted.done === "no" ? !entry : entry)
          && (wanted.done !== "changed" || entry.label !== label))
        && words.every((word) => text.includes(word)));
    }
    list.append(...cards.map((card, i) => [order(card), i, card])
      .sort((a, b) => (a[0] === b[0] ? a[1] - b[1] : a[0] - b[0])).map((each) => each[2]));
    const chosen = filters.elements.section.selectedOptions[0];
    find("#why").textContent = chosen.title && `${chosen.textContent}: ${chosen.title}.`;
    const [first] = visible();
    find("#none").hidden = first !== undefined;
    reach(current && !current.hidden ? current : first);
    count();
  }

  // The tab key reaches one card; arrow keys move between cards.
  function reach(card) {
    if (current) current.tabIndex = -1;
    current = card ?? null;
    if (current) current.tabIndex = 0;
  }

  function go(card) {
    if (!card) return;
    reach(card);
    card.focus();
    card.scrollIntoView({ block: "nearest" });
  }

  function step(by) {
    const shown = visible();
    const at = shown.indexOf(current);
    go(shown[Math.min(Math.max(at + by, 0), shown.length - 1)]);
  }

  function columns() {
    const shown = visible();
    const top = shown[0]?.offsetTop;
    const next = shown.findIndex((card) => card.offsetTop !== top);
    return next < 0 ? Math.max(shown.length, 1) : next;
  }

  // Text that a spreadsheet would evaluate gets a ' in front, which training removes.
  const formula = /^'*[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]/;
  const number = /^[+-]?[0-9]*([.,][0-9]+)?$/;
  const guarded = (text) => (formula.test(text) && !number.test(text) ? `'${text}` : text);
  const quoted = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);

  function exported() {
    if (!reviewed.size) return;
    const lines = [...reviewed].map(([uri, entry]) => (
      [uri, guarded(entry.label), guarded(entry.predicted)].map(quoted).join(",")));
    const text = ["uri,label,predicted_label", ...lines, ""].join("\n");
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
    link.download = "labels.csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  list.addEventListener("focusin", (event) => reach(event.target.closest(".card")));
  list.addEventListener("click", (event) => {
    const card = event.target.closest(".card");
    const button = event.target.closest(".choices button");
    if (button) {
      setLabel(card, button.getAttribute("aria-pressed") === "true" ? null : button.value);
      // Keys continue from where the pointer was.
      go(card);
    }
  });
  list.addEventListener("change", (event) => {
    if (!event.target.matches(".choices input")) return;
    const label = written(event.target.value);
    const card = event.target.closest(".card");
    if (label) setLabel(card, label);
    else if (event.target.classList.contains("set")) setLabel(card, null);
  });
  filters.addEventListener("input", apply);
  filters.addEventListener("submit", (event) => event.preventDefault());
  find("#export").addEventListener("click", exported);

  function labelled(number) {
    const button = current && all(".choices button", current)[number - 1];
    if (!button) return;
    const card = current;
    setLabel(card, button.value);
    step(1);
  }

  const keys = {
    ArrowLeft: () => step(-1),
    ArrowRight: () => step(1),
    ArrowUp: () => step(-columns()),
    ArrowDown: () => step(columns()),
    Enter: () => labelled(1),
    0: () => current && setLabel(current, null),
    Delete: () => current && setLabel(current, null),
    o: () => current && find("input", current)?.focus(),
    z: () => {
      current?.classList.toggle("large");
      go(current);
    },
    "/": () => filters.elements.text.focus(),
    e: exported,
  };
  for (const number of [1, 2, 3, 4, 5]) keys[number] = () => labelled(number);

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    const within = event.target;
    if (within.matches(".choices input")) {
      const card = within.closest(".card");
      if (event.key === "Enter") {
        event.preventDefault();
        const label = written(within.value);
        if (label) setLabel(card, label);
        go(card);
        if (label) step(1);
      } else if (event.key === "Escape") {
        paint(card);
        go(card);
      }
      return;
    }
    if (within.matches("#filters *")) {
      if (event.key === "Escape") go(current);
      return;
    }
    // Elsewhere keys do what they always do, and no image is labelled before a card has focus.
    const nowhere = within === document.body;
    if (nowhere ? !["ArrowRight", "/", "e"].includes(event.key) : !within.closest(".card")) return;
    const action = Object.hasOwn(keys, event.key) ? keys[event.key] : undefined;
    if (!action) return;
    event.preventDefault();
    if (nowhere && event.key === "ArrowRight") go(current);
    else action();
  });
  function again() {
    reviewed.clear();
    load();
    cards.forEach(paint);
    count();
  }
  window.addEventListener("storage", (event) => event.key === key && again());
  // A page restored from the cache may be out of date.
  window.addEventListener("pageshow", (event) => event.persisted && again());

  load();
  cards.forEach(paint);
  // Start with the images to label next, if there are any.
  if (all('option[value="next"]', filters).length) filters.elements.section.value = "next";
  apply();
})();
