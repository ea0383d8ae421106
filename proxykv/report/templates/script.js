"use strict";
(() => {
  const $ = (selector, root = document) => root.querySelector(selector);
  const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
  const make = (tag, text = "", attributes = {}) => {
    const node = document.createElement(tag);
    node.textContent = text; // never innerHTML: answers are a model's text
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    return node;
  };

  // State lives after the "?" of the hash, so that a view can be linked: #tasks?filter=vt
  const [anchor, query = ""] = location.hash.slice(1).split("?");
  const state = new URLSearchParams(query);
  let section = anchor;
  const remember = (key, value) => {
    if (value) state.set(key, value); else state.delete(key);
    const text = state.toString();
    history.replaceState(null, "", "#" + section + (text ? "?" + text : ""));
  };
  for (const link of $$("nav a")) link.addEventListener("click", (event) => {
    event.preventDefault();
    section = link.hash.slice(1);
    remember("", "");
    document.getElementById(section).scrollIntoView();
  });
  if (anchor) document.getElementById(anchor)?.scrollIntoView();

  // Tables: sort by heading, filter by words, copy.
  const value = (row, column) => row.cells[column].dataset.v;
  const sortBy = (table, column) => {
    const head = table.tHead.rows[0].cells[column];
    const down = head.getAttribute("aria-sort") !== "descending";
    for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const rows = [...table.tBodies[0].rows].sort((a, b) => {
      const [x, y] = [value(a, column), value(b, column)];
      if (x === "" || y === "") return (x === "") - (y === ""); // unknown stays last
      const order = isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y;
      return down ? -order : order;
    });
    table.tBodies[0].append(...rows);
  };
  const visible = (table) => [table.tHead.rows[0], ...$$("tbody tr:not([hidden])", table)];
  const asCsv = (table) => visible(table).map((row) => [...row.cells].map((cell) => {
    const text = cell.dataset.v ?? cell.textContent;
    return /[",\n]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text;
  }).join(",")).join("\n");
  const symbols = { "ρ": "$\\rho$", "±": "$\\pm$", "≤": "$\\leq$", "–": "--", "%": "\\%", "&": "\\&", "_": "\\_", "#": "\\#", "<": "$<$", ">": "$>$", "−": "$-$" };
  const asLatex = (table) => {
    const lines = visible(table).map((row) => [...row.cells].map((cell) =>
      cell.textContent.trim().replace(/\s+/g, " ").replace(/[ρ±≤–%&_#<>−]/g, (c) => symbols[c])).join(" & ") + " \\\\");
    const align = [...table.tBodies[0].rows[0]?.cells ?? []].map((cell) => cell.classList.contains("n") ? "r" : "l").join("");
    return ["\\begin{tabular}{" + align + "}", "\\toprule", lines[0], "\\midrule", ...lines.slice(1), "\\bottomrule", "\\end{tabular}"].join("\n");
  };
  const copy = async (button, text) => {
    try { await navigator.clipboard.writeText(text); }
    catch { // file:// pages of some browsers have no clipboard API
      const area = make("textarea", text);
      document.body.append(area); area.select(); document.execCommand("copy"); area.remove();
    }
    const label = button.textContent;
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = label; }, 1200);
  };

  const equip = (host, key) => {
    const tables = $$(".table", host).length ? $$(".table", host) : [host];
    const tools = make("div", "", { class: "tools" });
    const show = (metric) => {
      for (const t of tables) t.hidden = tables.length > 1 && t.dataset.metric !== metric;
      for (const b of $$("[aria-pressed]", tools)) b.setAttribute("aria-pressed", b.textContent === metric);
      remember(key + ".metric", metric === tables[0].dataset.metric ? "" : metric);
    };
    if (tables.length > 1) for (const t of tables) {
      const button = make("button", t.dataset.metric, { type: "button", "aria-pressed": "false" });
      button.addEventListener("click", () => show(t.dataset.metric));
      tools.append(button);
    }
    const filter = make("input", "", { type: "search", placeholder: "Filter rows, e.g. prior", "aria-label": "Filter rows", class: "push" });
    const narrow = () => {
      const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
      for (const row of $$("tbody tr", host)) {
        const text = [...row.cells].filter((c) => !c.classList.contains("n")).map((c) => c.textContent + " " + c.title).join(" ").toLowerCase();
        row.hidden = !words.every((word) => text.includes(word));
      }
      remember(key + ".filter", filter.value);
    };
    filter.addEventListener("input", narrow);
    tools.append(filter);
    for (const [label, format] of [["Copy CSV", asCsv], ["Copy LaTeX", asLatex]]) {
      const button = make("button", label, { type: "button" });
      button.addEventListener("click", () => copy(button, format($("table", tables.find((t) => !t.hidden)))));
      tools.append(button);
    }
    host.prepend(tools);
    for (const table of $$("table", host)) [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = make("button", head.textContent, { type: "button" });
      if (table.tBodies[0].rows[0]?.cells[column].classList.contains("n")) head.classList.add("right");
      button.addEventListener("click", () => sortBy(table, column));
      head.replaceChildren(button);
    });
    filter.value = state.get(key + ".filter") ?? "";
    if (filter.value) narrow();
    const wanted = state.get(key + ".metric");
    if (tables.length > 1) show(tables.some((t) => t.dataset.metric === wanted) ? wanted : tables[0].dataset.metric);
  };
  $$(".group, :not(.group) > .table").forEach((host) => equip(host, $("table", host).closest(".table").id));

  // Figures: the chosen methods in colour, the others pale. Unasked, only in crowded figures.
  const palette = $("#figure-methods");
  const boxes = $$("input", palette);
  const chosen = () => boxes.filter((box) => box.checked).map((box) => box.value).join() || "none";
  const usual = chosen();
  const paint = () => {
    const inColour = new Set(chosen().split(","));
    const asked = chosen() !== usual;
    for (const card of $$("figure .card")) for (const part of $$("[data-method]", card))
      part.classList.toggle("pale", (asked || "crowded" in card.dataset) && !inColour.has(part.dataset.method));
    remember("figures.methods", asked ? chosen() : "");
  };
  const wanted = state.get("figures.methods")?.split(",");
  if (wanted) for (const box of boxes) box.checked = wanted.includes(box.value);
  palette.addEventListener("change", paint);
  palette.addEventListener("reset", () => setTimeout(paint)); // after the boxes have been reset
  $("[value=all]", palette).addEventListener("click", () => { for (const box of boxes) box.checked = true; paint(); });
  palette.addEventListener("submit", (event) => event.preventDefault());
  paint();

  // Example explorer.
  const { examples, contexts, methods, subject } = JSON.parse($("#data").textContent);
  const label = Object.fromEntries(methods.map((m) => [m.id, m.label]));
  const form = $("#explorer-filters");
  const several = new Set(examples.map((e) => e.cell)).size > 1;
  const taskOf = (e) => several ? e.cell + " · " + e.task : e.task;
  const fill = (name, options, start) => {
    for (const [v, text] of options) form.elements[name].append(make("option", text, { value: v }));
    const wanted = state.get("examples." + name) ?? start;
    if ([...form.elements[name].options].some((o) => o.value === wanted)) form.elements[name].value = wanted;
  };
  const pruned = examples.flatMap((e) => e.answers).filter((a) => a.retention < 1);
  const retentions = [...new Set(pruned.map((a) => a.retention))].sort((a, b) => a - b);
  const there = new Set(pruned.map((a) => a.method));
  fill("task", [["all", "all"], ...[...new Set(examples.map(taskOf))].map((t) => [t, t])], taskOf(examples[0]));
  fill("method", [["all", "all"], ...methods.filter((m) => there.has(m.id)).map((m) => [m.id, m.label])], there.has(subject) ? subject : "all");
  fill("retention", [["all", "all"], ...retentions.map((r) => [String(r), String(r)])], "all");
  fill("outcome", [], "all");
  const outcome = (answer, full) => !full ? "" : answer.score < full.score ? "lost" : answer.score > full.score ? "gained" : "kept";
  const line = (who, score, text, kind) => {
    const node = make("div", "", { class: "answer " + kind });
    node.append(make("span", who), make("span", score, { class: "score" }), make("span", text, { class: "text" }));
    return node;
  };

  // Kept tokens: the context of an answer, shaded by what its method keeps at its retention.
  const LEVELS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  const percent = (share) => (100 * share).toFixed(share > 0 && share < 0.1 ? 1 : 0) + " %";
  const mean = (shares) => shares.reduce((sum, share) => sum + share, 0) / shares.length;
  const shaded = (tag, text, share) => // by the root, so that a tenth is seen
    make(tag, text, { style: `--kept: ${Math.sqrt(share).toFixed(3)}`, title: percent(share) });
  const strip = (name, shares) => {
    const node = make("div", "", { class: "strip" });
    const cells = make("span", "", { class: "cells", role: "img", "aria-label": `${name}: ${shares.map(percent).join(", ")}` });
    cells.append(...shares.map((share) => shaded("span", "", share)));
    node.append(make("span", name), cells);
    return node;
  };
  const keptOf = (e, a) => contexts[e.kept]?.kept.find((k) =>
    k.method === a.method && k.retention === a.retention && (k.question ?? e.question) === e.question);
  const keptText = (context, question, levels) => {
    const marked = new Set(context.answers[question].flatMap(([first, end]) => Array.from({ length: end - first }, (_, i) => first + i)));
    const text = make("div", "", { class: "context", tabindex: "0", role: "region", "aria-label": "Context" });
    const gap = (tokens) => { if (tokens) text.append(make("em", ` … ${tokens} tokens … `)); };
    let [next, shown] = [0, 0];
    for (const [first, pieces] of context.windows) {
      gap(first - next);
      pieces.forEach((piece, i) => text.append(shaded(marked.has(first + i) ? "mark" : "span", piece, LEVELS.indexOf(levels[shown++]) / 63)));
      next = first + pieces.length;
    }
    gap(context.tokens - next);
    return text;
  };
  const keptView = (e, kept, kind) => {
    const [context, view] = [contexts[e.kept], make("div", "", { class: "kept-tokens" })];
    const [layers, places] = [kept.answers[e.question], context.places[e.question]];
    view.append(make("p", `${percent(kept.share)} of the context's pairs are kept. ` + (!layers
      ? "The reference is not in the context word for word."
      : `The reference, outlined, is in the context at ${places} place${places === 1 ? "" : "s"}: ${percent(mean(layers))} of its pairs are kept` +
        (kind === "lost" ? `, ${percent(1 - mean(layers))} were dropped before this worse answer.` : "."))));
    const wanted = state.get("examples.layer");
    const layer = Object.keys(kept.layers ?? []).includes(wanted) ? wanted : "";
    const legend = make("p", `Share of a token's pairs, over all ${layer ? `heads of layer ${layer}` : "layers and heads"}, that is kept: `, { class: "legend" });
    for (const share of [0, 0.1, 0.5, 1]) legend.append(shaded("span", percent(share), share));
    view.append(strip("Along the context", kept.positions));
    if (layers) view.append(strip("Reference, by layer", layers));
    if (kept.layers) view.append(layerChoice(kept.layers, layer));
    view.append(legend, keptText(context, e.question, layer ? kept.layers[layer] : kept.tokens));
    return view;
  };
  const layerChoice = (layers, layer) => {
    const [label, select] = [make("label", "Layer "), make("select")];
    select.append(make("option", "all", { value: "" }), ...layers.map((_, i) => make("option", String(i), { value: i })));
    select.value = layer;
    select.addEventListener("change", () => {
      remember("examples.layer", select.value);
      render();
      $(".kept-tokens select").focus();
    });
    label.append(select);
    return label;
  };
  const offer = (e, a, node, kind) => { // a button that opens the view below the answer
    const kept = keptOf(e, a);
    if (!kept) return;
    const id = [e.kept, e.question, a.method, a.retention].join(" · ");
    const open = state.get("examples.kept") === id;
    const button = make("button", "Kept tokens", { type: "button", "aria-expanded": String(open), "data-kept": id });
    button.addEventListener("click", () => {
      remember("examples.kept", open ? "" : id);
      render();
      $$("[data-kept]").find((other) => other.dataset.kept === id).focus();
    });
    node.firstChild.append(" ", button);
    if (open) node.append(keptView(e, kept, kind));
  };
  const render = () => {
    const want = Object.fromEntries(["task", "method", "retention", "outcome"].map((n) => [n, form.elements[n].value === "all" ? "" : form.elements[n].value]));
    let shown = 0;
    const cards = examples.filter((e) => !want.task || taskOf(e) === want.task).flatMap((e) => {
      const full = e.answers.find((a) => a.retention === 1);
      const answers = e.answers.filter((a) => a.retention < 1 && (!want.method || a.method === want.method)
        && (!want.retention || String(a.retention) === want.retention) && (!want.outcome || outcome(a, full) === want.outcome));
      if (!answers.length) return [];
      shown += answers.length;
      const card = make("article", "", { class: "example" });
      card.append(make("h3", `${taskOf(e)} · ${e.context} · question ${e.question + 1} · ${e.tokens} tokens`));
      const question = contexts[e.kept]?.questions[e.question];
      if (question) card.append(line("Question", "", question, ""));
      card.append(line("Reference", "", e.references.join("  |  "), ""));
      if (full) card.append(line(label[full.method] ?? full.method, "score " + full.score, full.text, ""));
      for (const a of answers) {
        const node = line(`${label[a.method] ?? a.method}, ρ ${a.retention}`, "score " + a.score, a.text, outcome(a, full));
        if (a.kl !== undefined) node.title = `KL ${a.kl} nats per token`;
        offer(e, a, node, outcome(a, full));
        card.append(node);
      }
      return [card];
    });
    $("#explorer").replaceChildren(...cards);
    const mark = $(".kept-tokens mark");
    if (mark) mark.parentNode.scrollTop = mark.offsetTop - mark.parentNode.offsetTop - 48;
    $("#explorer-count").textContent = `${shown} answers to ${cards.length} questions`;
  };
  form.addEventListener("change", (event) => { remember("examples." + event.target.name, event.target.value || "all"); render(); });
  form.addEventListener("submit", (event) => event.preventDefault());
  render();
})();
