"use strict";
// The examples: filter, search, page, show whole. What a model wrote reaches the page through textContent alone.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const PAGE = 20; // items on one page
  const CUT = 1500; // characters of a text before "Show all"
  const MANY = 6; // the most models whose verdicts stand in a line, and that have a filter each
  const CELLS = 4e6; // of the table that a comparison by words may fill
  const SIGNS = { correct: "✓", wrong: "✗", truncated: "✂", error: "!", unjudged: "?", cannot_be_judged: "∅" };
  const SAYS = { truncated: "cut off", unjudged: "not judged", cannot_be_judged: "cannot be judged" };
  const get = (id) => document.getElementById(id);
  const methods = (arm) => data.methods[arm] || "";
  const crowd = data.arms.length > MANY;
  let shown = data.items;
  let page = 0;

  function make(name, classes, ...children) {
    const element = document.createElement(name);
    if (classes) element.className = classes;
    element.append(...children.filter((c) => c !== null));
    return element;
  }

  // Control characters as their pictures; halves of characters and what turns the writing direction as U+FFFD.
  function visible(text) {
    const whole = text.toWellFormed ? text.toWellFormed() : text;
    return whole
      .replace(/\r\n/g, "\n")
      .replace(/[\x00-\x08\x0b-\x1f]/g, (c) => String.fromCharCode(0x2400 + c.charCodeAt(0)))
      .replace(/\x7f/g, "\u2421")
      .replace(/[\x80-\x9f\u202a-\u202e\u2066-\u2069]/g, "\ufffd");
  }

  // --- differences by words: [kind, text] with kind "same", "ins" or "del" -------------------------------------

  const words = (text) => text.match(/[\p{L}\p{N}\p{M}_]+|\s+|[^\p{L}\p{N}\p{M}_\s]/gu) || [];

  /** What of `a` is gone and what of `b` is new, each as segments of its own text; null where both are too long. */
  function compared(a, b) {
    const x = words(a), y = words(b);
    let start = 0, end = 0;
    while (start < x.length && start < y.length && x[start] === y[start]) start++;
    while (end < x.length - start && end < y.length - start && x[x.length - 1 - end] === y[y.length - 1 - end]) end++;
    const n = x.length - start - end, m = y.length - start - end;
    if (n * m > CELLS) return null;
    const wide = m + 1, best = new Uint16Array((n + 1) * wide); // a longest common sequence has at most 2000 words
    for (let i = n - 1; i >= 0; i--)
      for (let j = m - 1; j >= 0; j--)
        best[i * wide + j] = x[start + i] === y[start + j]
          ? best[(i + 1) * wide + j + 1] + 1
          : Math.max(best[(i + 1) * wide + j], best[i * wide + j + 1]);
    const gone = new Set(), fresh = new Set();
    let i = 0, j = 0;
    while (i < n || j < m) {
      if (i < n && j < m && x[start + i] === y[start + j]) { i++; j++; }
      else if (j >= m || (i < n && best[(i + 1) * wide + j] >= best[i * wide + j + 1])) gone.add(start + i++);
      else fresh.add(start + j++);
    }
    return [segments(x, gone, "del"), segments(y, fresh, "ins")];
  }

  function segments(tokens, marked, kind) {
    const found = [];
    const at = (k) => (marked.has(k) || (!tokens[k].trim() && marked.has(k - 1) && marked.has(k + 1)) ? kind : "same");
    tokens.forEach((token, k) => {
      if (found.length && found.at(-1)[0] === at(k)) found.at(-1)[1] += token;
      else found.push([at(k), token]);
    });
    return found;
  }

  // --- one item ------------------------------------------------------------------------------------------------

  function textBlock(pieces, style) {
    const box = make("div", `text ${style || ""}`);
    box.dir = "auto";
    const fill = (limit) => {
      let left = limit;
      const nodes = [];
      for (const [kind, text] of pieces) {
        if (left <= 0) break;
        const part = visible(text.length > left ? text.slice(0, left) : text);
        nodes.push(kind === "same" ? document.createTextNode(part) : make(kind, "", part));
        left -= text.length;
      }
      box.replaceChildren(...nodes);
    };
    const size = pieces.reduce((sum, [, text]) => sum + text.length, 0);
    fill(CUT);
    if (size === 0) box.append(make("em", "", "empty"));
    if (size <= CUT * 1.2) {
      fill(Infinity);
      if (size === 0) box.append(make("em", "", "empty"));
      return box;
    }
    const button = make("button", "", `Show all ${size.toLocaleString("en")} characters`);
    button.type = "button";
    button.addEventListener("click", () => {
      fill(Infinity);
      box.tabIndex = -1;
      box.focus();
      button.remove();
    });
    return make("div", "", box, button);
  }

  const plain = (text, style) => textBlock([["same", text]], style);
  const part = (title, ...content) => make("div", "", make("h3", "", title), ...content);
  const folded = (thought) => make("details", "thought", make("summary", "", "Thoughts"), plain(thought));
  const said = (text) => make("p", "said", make("bdi", "", visible(text)));

  function verdict(answer) {
    if (!answer.verdict) return make("span", "verdict", "not judged");
    const name = SAYS[answer.verdict] || answer.verdict;
    return make("span", `verdict ${answer.verdict}`, `${SIGNS[answer.verdict]} ${name}`);
  }

  /** The arms that answered; of many, those with the same answer and verdict together. */
  function sameAnswers(item) {
    const groups = new Map();
    for (const arm of data.arms.filter((arm) => item.answers[arm])) {
      const key = crowd ? JSON.stringify(item.answers[arm]) : arm;
      groups.set(key, [...(groups.get(key) || []), arm]);
    }
    return [...groups.values()];
  }

  function answers(item) {
    const cards = sameAnswers(item).map((same) => {
      const arm = same[0], a = item.answers[arm];
      const title = make("h3", "", make("bdi", "", visible(same.join(", "))), same.length > 1 ? " answer " : " answers ", a.verdict ? verdict(a) : "");
      const card = make("div", "", title, ...(a.thought ? [folded(a.thought)] : []), plain(a.text, methods(arm)));
      const facts = [["read as", a.extracted], ["expected", a.expected], ["class", a.label], ["note", a.note]];
      for (const [name, value] of facts) if (value) card.append(said(`${name}: ${cut(value, 300)}`));
      if (a.finish && a.finish !== "stop") card.append(said(`ended by: ${a.finish}`));
      if (a.samples) card.append(said(a.samples));
      return card;
    });
    return cards.length ? make("div", "sides", ...cards) : null;
  }

  function training(item) {
    const sides = item.references.map((reference, k) => {
      const rewrite = item.rewrites && item.rewrites[k];
      const thought = item.thoughts && item.thoughts[k];
      const of = item.references.length > 1 ? ` of turn ${k + 1}` : "";
      if (rewrite === undefined) return make("div", "sides", part(`Reference${of}`, plain(reference)), part(`Rewrite${of}`, make("p", "none", "none")));
      const marked = compared(reference, rewrite);
      const [left, right] = marked || [[["same", reference]], [["same", rewrite]]];
      const box = part(`Rewrite${of}${item.kept ? ", kept" : ", not kept"}`, ...(thought ? [folded(thought)] : []), textBlock(right, "distilled"));
      if (!marked) box.append(said("too long to mark the differences by words"));
      return make("div", "sides", part(`Reference${of}`, textBlock(left, "original")), box);
    });
    const facts = [];
    if (item.reason) facts.push(`${item.reason}: ${data.reasons[item.reason] || ""}`);
    const nll = (v) => (typeof v === "number" ? v.toFixed(2) : "not measured");
    if (item.nll) facts.push(`seed NLL in nats a token: reference ${nll(item.nll[0])}, what trains ${nll(item.nll[1])}`);
    if (item.candidates > 1) facts.push(`one of ${item.candidates} candidates; the others lie in rewrites.jsonl`);
    if (item.note) facts.push(`note: ${item.note}`);
    return [...sides, make("div", "", ...facts.map(said))];
  }

  function body(item) {
    const prompt = item.prompt.length
      ? item.prompt.map(([role, text]) => part(item.prompt.length > 1 ? `Prompt, ${role}` : "Prompt", plain(text)))
      : [part("Prompt", make("p", "none", "not recorded"))];
    const middle = item.kind === "row" ? training(item) : item.references.slice(-1).map((r) => part("Reference", plain(r)));
    const asked = answers(item) || make("p", "said", "The arms were not asked this row.");
    return make("div", "body", ...prompt, ...middle, asked, said(`id ${cut(item.id, 200)}`));
  }

  const cut = (text, most) => (text.length > most ? `${text.slice(0, most)}…` : text);

  function opening(item) {
    const last = item.prompt.length ? item.prompt.at(-1)[1] : "";
    const text = visible(cut(last, 300)).replace(/\s+/g, " ").trim();
    return text || visible(cut(item.id, 100));
  }

  function entry(item) {
    const kind = make("bdi", "chip", item.kind === "row" ? "training row" : visible(cut(item.task, 40)));
    const start = make("span", "start", opening(item));
    start.dir = "auto";
    const signs = make("span", "signs");
    if (item.reason) signs.append(make("span", item.kept ? "correct" : "", `${item.kept ? "✓" : "–"} ${item.reason}`));
    if (item.kind === "item" && crowd) {
      const found = counts(data.arms.map((arm) => item.answers[arm] && item.answers[arm].verdict));
      for (const [v, n] of found) signs.append(make("span", v, `${SIGNS[v]} ${n} ${SAYS[v] || v}`));
    } else if (item.kind === "item")
      for (const arm of data.arms) {
        const v = item.answers[arm] && item.answers[arm].verdict;
        const name = v ? SAYS[v] || v : "not measured";
        const sign = make("span", v || "", `${v ? SIGNS[v] : "–"} `, make("bdi", "", visible(arm)), make("span", "hear", ` ${name}`));
        sign.title = name;
        signs.append(sign);
      }
    const box = make("details", "item", make("summary", "", kind, start, signs));
    box.addEventListener("toggle", () => {
      if (box.open && box.children.length === 1) box.append(body(item));
    });
    return box;
  }

  // --- filters -------------------------------------------------------------------------------------------------

  const right = (item, arm) => item.answers[arm] && item.answers[arm].verdict === "correct";
  const wrong = (item, arm) => item.answers[arm] && item.answers[arm].verdict && !["correct", "unjudged", "cannot_be_judged"].includes(item.answers[arm].verdict);
  const CHANGES = {};
  const groups = new Map(); // what can have happened, by the two arms of a pair
  for (const [a, b] of new Map(data.pairs.map((p) => [`${p[2]} ${p[3]}`, [p[2], p[3]]])).values()) {
    const pairs = data.pairs.filter((p) => p[2] === a && p[3] === b);
    const inSome = (test) => (item) => item.kind === "item" && pairs.some(([base, arm]) => test(item, base, arm));
    const found = {
      [`broken by ${a}, kept by ${b}`]: inSome((i, v, s) => right(i, "seed") && wrong(i, v) && right(i, s)),
      [`broken by ${b}, kept by ${a}`]: inSome((i, v, s) => right(i, "seed") && right(i, v) && wrong(i, s)),
      [`broken by ${a} and ${b}`]: inSome((i, v, s) => right(i, "seed") && wrong(i, v) && wrong(i, s)),
      [`learnt by ${a} and ${b}`]: inSome((i, v, s) => wrong(i, "seed") && right(i, v) && right(i, s)),
      [`learnt by ${a} alone`]: inSome((i, v, s) => wrong(i, "seed") && right(i, v) && wrong(i, s)),
      [`learnt by ${b} alone`]: inSome((i, v, s) => wrong(i, "seed") && wrong(i, v) && right(i, s)),
    };
    groups.set(`${a} and ${b}`, Object.keys(found));
    Object.assign(CHANGES, found);
  }
  CHANGES["cannot be judged"] = (i) => i.kind === "item" && Object.values(i.answers).some((a) => a.verdict === "cannot_be_judged");
  const haystacks = new Map();

  function haystack(item) {
    let text = haystacks.get(item);
    if (text === undefined) {
      const texts = [item.id, item.task, ...item.prompt.map((t) => t[1]), ...item.references, ...(item.rewrites || [])];
      text = [...texts, ...Object.values(item.answers).map((a) => a.text)].join("\n").toLowerCase();
      haystacks.set(item, text);
    }
    return text;
  }

  function counts(values) {
    const found = new Map();
    for (const v of values) if (v !== undefined && v !== "") found.set(v, (found.get(v) || 0) + 1);
    return [...found];
  }

  function choice([value, text]) {
    const option = make("option", "", visible(cut(text, 80)));
    option.value = value;
    return option;
  }

  const options = (select, choices) => select.replaceChildren(...choices.map(choice));

  function chosen() {
    const value = (id) => get(id).value;
    const tests = [];
    const kind = value("kind"), task = get("task").selectedIndex, reason = value("reason"), change = value("change");
    if (kind) tests.push((i) => i.kind === kind);
    if (task > 0) tests.push((i) => i.kind === "item" && i.task === tasks[task - 1][0]);
    if (reason) tests.push((i) => i.reason === reason);
    if (change) tests.push(CHANGES[change]);
    for (const [arm, wanted] of asks()) {
      if (wanted === "not correct") tests.push((i) => wrong(i, arm));
      else if (wanted) tests.push((i) => i.answers[arm] && i.answers[arm].verdict === wanted);
    }
    const asked = value("q").toLowerCase().split(/\s+/).filter(Boolean);
    if (asked.length) tests.push((i) => asked.every((word) => haystack(i).includes(word)));
    return data.items.filter((item) => tests.every((test) => test(item)));
  }

  // What is asked of the verdicts, as [arm, verdict]: a filter an arm, or of many arms two filters that each name one.
  const SLOTS = crowd ? [0, 1] : [...data.arms.keys()];
  const asks = () => SLOTS.map((k) => [crowd ? get(`arm-${k}`).value : data.arms[k], get(`verdict-${k}`).value]);

  /** Ask for this verdict of this arm, in the given place where there is a choice. */
  function ask(place, arm, verdict) {
    const k = crowd ? place : data.arms.indexOf(arm);
    if (crowd) get(`arm-${k}`).value = arm;
    get(`verdict-${k}`).value = verdict;
  }

  function filterOf(id, name, choices) {
    const select = make("select", "");
    select.id = id;
    options(select, choices);
    const label = make("label", "", make("bdi", "", visible(name)));
    label.htmlFor = id;
    get("verdicts").append(make("div", "", label, select));
  }

  function update() {
    shown = chosen();
    page = 0;
    draw();
  }

  function draw() {
    const last = Math.max(0, Math.ceil(shown.length / PAGE) - 1);
    page = Math.min(Math.max(page, 0), last);
    const part = shown.slice(page * PAGE, (page + 1) * PAGE);
    get("list").replaceChildren(...part.map(entry));
    const number = (n) => n.toLocaleString("en");
    const range = part.length ? `, showing ${number(page * PAGE + 1)} to ${number(page * PAGE + part.length)}` : "";
    get("status").textContent = `${number(shown.length)} of ${number(data.items.length)} examples${range}`;
    get("page").value = page + 1;
    get("page").max = last + 1;
    get("of").textContent = `of ${number(last + 1)}`;
    get("previous").setAttribute("aria-disabled", String(page === 0));
    get("next").setAttribute("aria-disabled", String(page === last));
  }

  function turn(to) {
    const before = page;
    page = to;
    draw();
    if (page !== before) get("status").scrollIntoView({ block: "start" });
  }

  // --- begin ---------------------------------------------------------------------------------------------------

  const tasks = counts(data.items.map((i) => (i.kind === "item" ? i.task : "")));
  const kinds = counts(data.items.map((i) => i.kind));
  const names = { row: "training rows", item: "items of the tasks" };
  options(get("kind"), [["", "everything"], ...kinds.map(([k, n]) => [k, `${names[k]} (${n})`])]);
  options(get("task"), [["", "every task"], ...tasks.map(([t, n]) => [t, `${cut(t, 60)} (${n})`])]);
  const reasons = counts(data.items.map((i) => i.reason));
  options(get("reason"), [["", "any"], ...reasons.map(([r, n]) => [r, `${r} (${n})`])]);
  const changes = Object.keys(CHANGES).map((c) => [c, data.items.filter(CHANGES[c]).length]);
  const happened = changes.map(([c, n]) => [c, `${c} (${n})`, n]);
  const grouped = new Set(groups.size > 1 ? [...groups.values()].flat() : []);
  options(get("change"), [["", "anything"], ...happened.filter(([c]) => !grouped.has(c))]);
  if (grouped.size)
    for (const [name, listed] of groups) {
      const group = make("optgroup", "", ...happened.filter(([c, , n]) => listed.includes(c) && n).map(choice));
      group.label = visible(cut(name, 80));
      if (group.children.length) get("change").append(group);
    }
  const judged = (arm) => counts(data.items.flatMap((i) => (arm ? [i.answers[arm]] : Object.values(i.answers)).map((a) => a && a.verdict)));
  const verdicts = (arm) => [["", "any"], ...judged(arm).map(([v, n]) => [v, arm ? `${SAYS[v] || v} (${n})` : SAYS[v] || v]), ["not correct", "anything but correct"]];
  for (const k of SLOTS) {
    const which = k ? "the other arm" : "an arm";
    if (crowd) filterOf(`arm-${k}`, which, data.arms.map((arm) => [arm, arm]));
    filterOf(`verdict-${k}`, crowd ? `verdict of ${which}` : data.arms[k], verdicts(crowd ? "" : data.arms[k]));
  }

  let waiting;
  get("q").addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(update, 120);
  });
  get("filters").addEventListener("change", (event) => event.target.id === "q" || update());
  get("filters").addEventListener("submit", (event) => event.preventDefault());
  get("filters").addEventListener("reset", () => setTimeout(update));
  get("previous").addEventListener("click", () => turn(page - 1));
  get("next").addEventListener("click", () => turn(page + 1));
  get("page").addEventListener("change", () => turn((parseInt(get("page").value, 10) || 1) - 1));
  get("open").addEventListener("click", () => {
    const boxes = [...get("list").children];
    const open = boxes.some((box) => !box.open);
    for (const box of boxes) box.open = open;
  });

  // The numbers of items in the table of differences show these items.
  for (const place of document.querySelectorAll(".moved")) {
    const { task, right: good, wrong: bad } = place.dataset;
    const at = [tasks.findIndex(([t]) => t === task), data.arms.indexOf(good), data.arms.indexOf(bad)];
    if (at.includes(-1) || /^.0$/.test(place.textContent)) continue;
    const button = make("button", "link", place.textContent);
    button.type = "button";
    button.title = `Show the items that ${good} has right and ${bad} has not`;
    button.setAttribute("aria-label", `${place.textContent}: ${button.title}`);
    button.addEventListener("click", () => {
      get("filters").reset();
      get("task").selectedIndex = at[0] + 1;
      ask(0, good, "correct");
      ask(1, bad, "not correct");
      setTimeout(() => {
        get("examples").scrollIntoView();
        get("status").tabIndex = -1;
        get("status").focus({ preventScroll: true });
      });
    });
    place.replaceChildren(button);
  }

  // --- tables that can be sorted -------------------------------------------------------------------------------

  /** What a cell is sorted by: the number that it begins with, else its text; null for what was not measured. */
  function worth(cell) {
    const text = cell.textContent.trim();
    if (!text || text.startsWith("not measured")) return null;
    const found = text.match(/^[+\-−]?\d[\d,]*(\.\d+)?/);
    return found ? parseFloat(found[0].replaceAll(",", "").replace("−", "-")) : text.toLowerCase();
  }

  function sort(table, column, down) {
    const rows = [...table.tBodies[0].rows].map((row) => [worth(row.cells[column]), row]);
    const order = (a, b) => (typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === "number" ? -1 : 1);
    rows.sort(([a], [b]) => (a === null || b === null ? (a === null) - (b === null) : (down ? -1 : 1) * order(a, b)));
    table.tBodies[0].append(...rows.map(([, row]) => row));
  }

  for (const table of document.querySelectorAll(".sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      if (![...table.tBodies[0].rows].some((row) => worth(row.cells[column]) !== null)) return;
      const button = make("button", "sort", ...head.childNodes);
      button.type = "button";
      button.addEventListener("click", () => {
        const before = head.ariaSort;
        const numbers = [...table.tBodies[0].rows].some((row) => typeof worth(row.cells[column]) === "number");
        const down = before ? before === "ascending" : numbers; // the largest first, and names from their beginning
        for (const other of heads) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        sort(table, column, down);
      });
      head.replaceChildren(button);
    });
  }

  for (const part of document.querySelectorAll(".js")) part.hidden = false;
  draw();
})();
