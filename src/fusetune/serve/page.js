"use strict";
// One row for the model: a form made from /v1/model, answered by /v1/predict and /v1/explain of the same server.
// Whatever comes from there is put on the page as text, never as markup.
const at = (id) => document.getElementById(id);
let model = null;
let key = "";
let asked = 0; // the number of the latest question: answers to earlier ones come too late

function made(tag, facts = {}, ...inside) {
  const one = document.createElement(tag);
  for (const [name, value] of Object.entries(facts)) {
    if (value === true) one.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) one.setAttribute(name, value);
  }
  one.append(...inside.filter((part) => part !== null));
  return one;
}

const percent = (share) => `${(100 * share).toFixed(1)} %`;
const points = (share) => `${share < 0 ? "−" : "+"}${Math.abs(100 * share).toFixed(1)}`;
const short = (number) => Number(number.toPrecision(3)).toString();

async function call(path, body) {
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  let reply;
  try {
    reply = await fetch(path, { method: body ? "POST" : "GET", headers, body });
  } catch {
    throw new Error("The server does not answer. Is it running, and is the connection there?");
  }
  let said = {};
  try {
    said = await reply.json();
  } catch {
    throw new Error(`The server answered with ${reply.status} and no reason.`);
  }
  if (!reply.ok) throw Object.assign(new Error(said.error || `status ${reply.status}`), { status: reply.status });
  return said;
}

function complain(error) {
  at("wrong").textContent = error ? error.message : "";
  at("wrong").hidden = !error;
}

// ---- the form

function note(words, id) {
  return made("p", { class: "note", id }, words);
}

function field(column, index) {
  const id = `field-${index}`;
  const label = made("label", { for: id }, column.name);
  const facts = { id, name: column.name, "aria-describedby": `${id}-note`, autocomplete: "off" };
  let input = null;
  let hint = null;
  let broad = false;
  if (column.kind === "image") return pictureField(column, id, label);
  if (column.kind === "text") {
    [input, broad] = [made("textarea", { ...facts, rows: 4 }), true];
    if (column.read_in) hint = `left empty, it is read in the picture of ${column.read_in}`;
  } else if (column.kind === "number") {
    input = made("input", { ...facts, type: "text", inputmode: "decimal" });
    if (column.usual) hint = `mostly ${short(column.usual[0])} to ${short(column.usual[1])}`;
    else if (column.mean !== undefined) hint = `${short(column.mean)} on average`;
  } else if (column.kind === "boolean") {
    input = made("select", facts, ...["", "true", "false"].map((word) => made("option", { value: word }, word || "not known")));
  } else if (column.kind === "date") {
    input = made("input", { ...facts, type: "date" });
  } else if (column.kind === "vector") {
    [input, broad] = [made("textarea", { ...facts, rows: 3 }), true];
    hint = `${column.length} numbers, separated by spaces or commas`;
  } else {
    const choices = column.choices || [];
    if (choices.length <= 200) {
      const options = choices.map((word) => made("option", { value: word }, word));
      input = made("select", facts, made("option", { value: "" }, "not known"), ...options);
    } else {
      const list = made("datalist", { id: `${id}-list` }, ...choices.map((word) => made("option", { value: word })));
      input = made("input", { ...facts, list: `${id}-list` });
      label.append(list);
    }
  }
  input.dataset.kind = column.kind;
  return made("div", { class: broad ? "field broad" : "field" }, label, input, hint ? note(hint, `${id}-note`) : null);
}

function pictureField(column, id, label) {
  const input = made("input", { id, type: "file", accept: "image/*,.dcm,.dicom", name: column.name });
  input.dataset.kind = "image";
  const preview = made("img", { alt: "", hidden: true });
  const words = note("Choose a picture, drop it here, or paste it.", `${id}-note`);
  input.setAttribute("aria-describedby", `${id}-note`);
  const drop = made("div", { class: "drop" }, preview, made("div", {}, words, input));
  let address = null;
  const show = () => {
    if (address) URL.revokeObjectURL(address);
    const file = input.files[0];
    address = file ? URL.createObjectURL(file) : null;
    preview.hidden = !file;
    if (file) preview.src = address;
    else preview.removeAttribute("src");
    preview.alt = file ? `The picture for ${column.name}` : "";
    words.textContent = file ? `${file.name}, ${Math.ceil(file.size / 1024).toLocaleString("en")} KiB` : "Choose a picture, drop it here, or paste it.";
  };
  preview.addEventListener("error", () => { preview.hidden = true; }); // a format that only the server reads
  input.addEventListener("change", show);
  at("row").addEventListener("reset", () => setTimeout(show));
  const take = (files) => {
    if (!files.length) return;
    const one = new DataTransfer();
    one.items.add(files[0]);
    input.files = one.files;
    show();
  };
  drop.addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => { event.preventDefault(); drop.classList.remove("over"); take(event.dataTransfer.files); });
  input.take = take;
  return made("div", { class: "field broad" }, label, drop);
}

function numbers(words, name, count) {
  const parts = words.split(/[\s,;]+/).filter(Boolean);
  const found = parts.map(Number);
  if (found.some((one) => !Number.isFinite(one))) throw new Error(`${name}: these must be numbers, separated by spaces or commas.`);
  if (count && found.length !== count) throw new Error(`${name} has ${found.length} numbers, and the model needs ${count}.`);
  return found;
}

function content() {
  const row = {};
  const form = new FormData();
  let files = 0;
  for (const input of at("fields").querySelectorAll("[data-kind]")) {
    const name = input.name;
    if (input.dataset.kind === "image") {
      if (input.files.length) { form.append(name, input.files[0]); files += 1; }
      continue;
    }
    const words = input.value;
    if (!words.trim()) continue;
    if (input.dataset.kind === "number") {
      const value = Number(words.trim().replace(/^(-?\d+),(\d+)$/, "$1.$2"));
      if (!Number.isFinite(value)) throw new Error(`${name}: “${words}” is no number.`);
      row[name] = value;
    } else if (input.dataset.kind === "boolean") row[name] = words === "true";
    else if (input.dataset.kind === "vector") row[name] = numbers(words, name, 0);
    else if (input.dataset.kind === "group") {
      const columns = JSON.parse(input.dataset.columns);
      numbers(words, name, columns.length).forEach((value, place) => { row[columns[place]] = value; });
    } else row[name] = words;
  }
  if (!files && !Object.keys(row).length) throw new Error("Fill in something that the model can read.");
  form.append("rows", JSON.stringify([row]));
  return form;
}

function groupField(vector, index) {
  const id = `vector-${index}`;
  const input = made("textarea", { id, name: vector.name, rows: 3, "aria-describedby": `${id}-note`, autocomplete: "off" });
  input.dataset.kind = "group";
  input.dataset.columns = JSON.stringify(vector.columns);
  const hint = `${vector.columns.length} numbers, separated by spaces or commas: ${vector.columns[0]} to ${vector.columns[vector.columns.length - 1]}`;
  return made("div", { class: "field broad" }, made("label", { for: id }, vector.name), input, note(hint, `${id}-note`));
}

// ---- the answer

function showAnswer(reply) {
  const row = reply.rows[0];
  // Of classes one, with its probability; of labels those that are likelier than not; or a number.
  const labels = reply.model.target === "multilabel" ? String(row.prediction).split(";") : [String(row.prediction)];
  const shown = reply.model.target === "regression" ? number(row.prediction) : labels.join(", ") || "none of its labels";
  at("answer-title").textContent = row.probability === undefined ? shown : `${shown}, ${percent(row.probability)}`;
  at("rule").textContent = `Decided by ${reply.rule}. Model ${reply.model.version}.`;
  const order = Object.entries(row.probabilities || {}).sort((one, other) => other[1] - one[1]);
  at("classes").hidden = !order.length;
  at("classes").tBodies[0].replaceChildren(...order.slice(0, 30).map(([name, share]) => {
    const bar = made("span", { class: "length", "aria-hidden": "true" });
    bar.style.setProperty("--share", share);
    const track = made("span", { class: "track" }, made("span", { class: "room" }, bar), made("span", { class: "n" }, percent(share)));
    return made("tr", { class: labels.includes(name) ? "final" : null }, made("th", { scope: "row" }, name), made("td", {}, track));
  }));
  const facts = [];
  const fact = (name, words, odd) => facts.push(made("dt", {}, name), made("dd", { class: odd ? "odd" : null }, words));
  if (row.low === null) fact("Between these lies the true number in 90 % of new rows", "not known: too few rows", true);
  else if (row.low !== undefined) fact("Between these lies the true number in 90 % of new rows", `${number(row.low)} and ${number(row.high)}`);
  if (row.set) {
    const every = row.set.length === order.length && order.length > 1;
    const words = row.set.length ? row.set.join(", ") : "none: no class is as likely as it should be";
    fact("Classes that hold the right one in 90 % of new rows", every ? `${words} (every class: too little is known)` : words, every || !row.set.length);
  }
  if (row.unlike !== undefined) {
    const far = Object.entries(row.as_far).filter(([, share]) => share !== null);
    fact("Like the rows that the model knows?", row.unlike ? `unlike them: ${row.unlike}` : "yes, nothing stands out", Boolean(row.unlike));
    if (far.length) fact("Rows of the test part that were as far", far.map(([name, share]) => `${name} ${percent(share)}`).join(", "));
  }
  if (!model.unlike) fact("Like the rows that the model knows?", "not known: this model keeps nothing of its training rows");
  if (row.margin !== undefined) fact("Distance from another decision", percent(row.margin));
  if (row.problem) fact("Not all could be used", row.problem, true);
  at("facts").replaceChildren(...facts);
  at("answer").hidden = false;
}

let measured = points;

function number(value) {
  return Number(value).toLocaleString("en", { maximumSignificantDigits: 4 });
}

function effectTable(caption, first, rows) {
  const largest = Math.max(...rows.map(([, effect]) => Math.abs(effect)), 1e-9);
  const lines = rows.map(([name, effect]) => {
    const bar = made("span", { class: effect < 0 ? "effect against" : "effect", "aria-hidden": "true" });
    bar.style.setProperty("--share", Math.abs(effect) / largest);
    return made("tr", {}, made("th", { scope: "row" }, name), made("td", { class: "n" }, measured(effect)), made("td", { class: "wide" }, bar));
  });
  const head = made("tr", {}, made("th", { scope: "col" }, first), made("th", { scope: "col", class: "n" }, measured === points ? "Points" : "Effect"), made("th", { scope: "col", class: "wide" }, made("span", { class: "hidden" }, "Drawn")));
  const table = made("table", {}, made("caption", {}, made("span", {}, caption)), made("thead", {}, head), made("tbody", {}, ...lines));
  return made("div", { class: "scroll", role: "region", "aria-label": caption, tabindex: 0 }, table);
}

function marked(effects) {
  const largest = Math.max(...effects.map((one) => Math.abs(one.effect)), 1e-9);
  const words = effects.flatMap((one) => {
    const word = made("mark", { class: one.effect < 0 ? "against" : "for", title: measured === points ? `${points(one.effect)} points` : measured(one.effect) }, one.name);
    word.style.setProperty("--share", (Math.abs(one.effect) / largest).toFixed(3));
    return [word, " "];
  });
  return made("p", { class: "marked" }, ...words);
}

function showReasons(reply) {
  measured = reply.target === "regression" ? (effect) => number(effect) : points;
  at("prior").textContent = reply.target === "regression"
    ? `Without any input the model says ${number(reply.prior)}. Effects are in the unit of the number; blue raises it, ochre lowers it. They say what the model uses, not what causes the number.`
    : `Without any input the model gives “${reply.decision}” ${percent(reply.prior)}. Effects are percentage points of its probability; blue speaks for it, ochre against. They say what the model uses, not what causes the class.`;
  const parts = [];
  const shares = Object.entries(reply.shares);
  if (shares.length) parts.push(effectTable("What each input adds", "Input", shares));
  for (const [name, picture] of Object.entries(reply.pictures)) {
    const plain = made("figure", {}, made("img", { src: picture.picture, alt: `${name} as the model sees it` }), made("figcaption", {}, "As the model sees it."));
    const ends = made("span", { class: "scale-ends" }, made("span", {}, "against"), made("span", {}, "for"));
    const scale = made("figcaption", {}, `Regions by what covering them changes: ${measured(picture.least)} to ${measured(picture.most)}${measured === points ? " points" : ""}.`, made("span", { class: "scale", "aria-hidden": "true" }), ends);
    const map = made("figure", {}, made("img", { src: picture.map, alt: `${name}, shaded by effect` }), scale);
    parts.push(made("div", { class: "part" }, made("h3", {}, `${name}: where it looks`), made("div", { class: "grid" }, plain, map)));
  }
  for (const [name, effects] of Object.entries(reply.effects)) {
    if (!effects.length) continue;
    const rows = effects.map((one) => [one.name, one.effect]).sort((one, other) => Math.abs(other[1]) - Math.abs(one[1])).slice(0, 12);
    const cells = effects[0].typical !== null;
    const table = effectTable(cells ? "What each cell adds, against its being missing" : "What each part adds, the strongest first", "Part", rows);
    const texts = model.columns.some((column) => column.name === name && column.kind === "text");
    parts.push(made("div", { class: "part" }, made("h3", {}, name), texts ? marked(effects) : null, table));
  }
  at("parts").replaceChildren(...parts);
  at("reasons").hidden = false;
}

// ---- asking

async function ask(explain) {
  const mine = ++asked;
  complain(null);
  at("reasons").hidden = true;
  at("answer").hidden = true;
  for (const button of document.querySelectorAll(".actions button")) button.disabled = true;
  at("state").textContent = "Asking …";
  try {
    const form = content();
    const options = new URLSearchParams({ on_problem: "raise" });
    if (model.target === "classification") options.set("margin", "0");
    if (model.sets) options.set("sets", "0.9");
    if (model.unlike) options.set("unlike", "true");
    const reply = await call(`v1/predict?${options}`, form);
    if (mine !== asked) return;
    showAnswer(reply);
    at("answer").focus({ preventScroll: true });
    at("answer").scrollIntoView({ block: "nearest" });
    if (explain) {
      at("state").textContent = "Explaining: the model is asked again without each part …";
      const reasons = await call("v1/explain", form);
      if (mine === asked) showReasons(reasons);
    }
  } catch (error) {
    if (mine === asked) complain(error);
  } finally {
    if (mine === asked) {
      at("state").textContent = "";
      for (const button of document.querySelectorAll(".actions button")) button.disabled = false;
    }
  }
}

async function start() {
  complain(null);
  try {
    model = await call("v1/model");
  } catch (error) {
    at("about").textContent = error.status === 401 ? "This server asks for a key." : "";
    at("key-form").hidden = error.status !== 401;
    if (error.status !== 401 || key) complain(error);
    return;
  }
  at("key-form").hidden = true;
  const inputs = model.columns.length + model.vectors.length;
  const classes = model.classes.length > 8 ? `${model.classes.slice(0, 8).join(", ")} and ${model.classes.length - 8} more` : model.classes.join(", ");
  const what = {
    classification: `It tells ${model.classes.length} classes of “${model.label}” apart: ${classes}.`,
    multilabel: `It says which of ${model.classes.length} labels of “${model.label}” a row has: ${classes}.`,
    regression: `It predicts the number ${classes}.`,
  }[model.target];
  at("about").textContent = `${what} Fill in what you have of ${inputs} inputs; what you leave empty counts as missing.`;
  const order = ["image", "text"];
  const rank = (column) => (order.indexOf(column.kind) + order.length) % order.length + (order.includes(column.kind) ? 0 : 10);
  const columns = model.columns.map((column, index) => [column, index]).sort((one, other) => rank(one[0]) - rank(other[0]) || one[1] - other[1]);
  at("fields").replaceChildren(...columns.map(([column, index]) => field(column, index)), ...model.vectors.map(groupField));
  at("row").hidden = false;
}

at("row").addEventListener("submit", (event) => { event.preventDefault(); ask(false); });
at("row").addEventListener("reset", () => { asked += 1; complain(null); at("answer").hidden = true; at("reasons").hidden = true; at("state").textContent = ""; for (const button of document.querySelectorAll(".actions button")) button.disabled = false; });
at("why").addEventListener("click", () => ask(true));
at("key-form").addEventListener("submit", (event) => { event.preventDefault(); key = at("key").value.trim(); start(); });
document.addEventListener("paste", (event) => {
  const first = at("fields").querySelector("[data-kind='image']");
  if (first && event.clipboardData.files.length) { event.preventDefault(); first.take(event.clipboardData.files); }
});
// A picture that is dropped beside its place would replace the page.
for (const kind of ["dragover", "drop"]) document.addEventListener(kind, (event) => event.preventDefault());
start();
