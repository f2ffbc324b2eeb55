// After axe-core's rules of the same names, written for this page: returns what breaks them.
const problems = [];
const seen = (each) => each.checkVisibility({ visibilityProperty: true, opacityProperty: true });
const all = (selector) => [...document.querySelectorAll(selector)];
const told = (each) => `${each.tagName.toLowerCase()}${each.id ? "#" + each.id : ""} ${JSON.stringify((each.textContent ?? "").trim().slice(0, 30))}`;

if (!document.documentElement.lang) problems.push("html-has-lang");
if (!document.title.trim()) problems.push("document-title");
for (const one of ["main", "h1", "header"]) {
  if (all(one).length !== 1) problems.push(`one ${one}: ${all(one).length}`);
}
let level = 0;
for (const heading of all("h1, h2, h3, h4")) {
  const own = Number(heading.tagName[1]);
  if (own > level + 1) problems.push(`heading-order: ${told(heading)}`);
  if (!heading.textContent.trim()) problems.push("empty-heading");
  level = own;
}
const ids = all("[id]").map((each) => each.id);
if (new Set(ids).size !== ids.length) problems.push("duplicate-id");
for (const each of all("[aria-labelledby], [aria-describedby], label[for]")) {
  const names = ["aria-labelledby", "aria-describedby", "for"].map((name) => each.getAttribute(name)).filter(Boolean);
  for (const id of names.join(" ").split(" ")) if (!document.getElementById(id)) problems.push(`no such id: ${id}`);
}
for (const each of all("input:not([type=hidden]), select, textarea, meter")) {
  if (!(each.labels?.length || each.getAttribute("aria-label") || each.getAttribute("aria-labelledby"))) {
    problems.push(`label: ${told(each)}`);
  }
}
for (const each of all("a[href], button, summary")) {
  if (!(each.textContent.trim() || each.getAttribute("aria-label"))) problems.push(`name: ${told(each)}`);
}
for (const each of all("img")) if (!each.hasAttribute("alt")) problems.push("image-alt");
for (const each of all("section, table, nav")) {
  if (!(each.getAttribute("aria-label") || each.getAttribute("aria-labelledby"))) problems.push(`region: ${told(each)}`);
}
for (const table of all("table")) {
  if (table.querySelector("thead th:not([scope=col])")) problems.push(`scope: ${table.id}`);
  const columns = table.tHead.rows[0].cells.length;
  for (const row of table.tBodies[0].rows) {
    if (row.cells.length !== columns) problems.push(`cells: ${table.id}`);
    if (row.cells[0].scope !== "row") problems.push(`row header: ${table.id}`);
    if (row.getAttribute("role") !== "row") problems.push(`role: ${table.id}`);
  }
}
if (all("[tabindex]").some((each) => Number(each.getAttribute("tabindex")) > 0)) problems.push("tabindex");
if (all("[style], script:not([src]), style").length) problems.push("inline style or script");
if (document.documentElement.scrollWidth > innerWidth) problems.push(`wider than the window: ${document.documentElement.scrollWidth}`);

// Contrast, WCAG 2.2 1.4.3: 4.5, and 3 for large text; 1.4.11: 3 for the edges of fields.
const colour = (text) => (text.match(/[\d.]+/g) ?? []).map(Number);
const light = ([r, g, b]) => {
  const [x, y, z] = [r, g, b].map((each) => (each / 255 <= 0.04045 ? each / 255 / 12.92 : ((each / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * x + 0.7152 * y + 0.0722 * z;
};
const ratio = (one, other) => {
  const [a, b] = [light(one), light(other)].sort((x, y) => y - x);
  return (a + 0.05) / (b + 0.05);
};
const ground = (each) => {
  for (let up = each; up; up = up.parentElement) {
    const own = colour(getComputedStyle(up).backgroundColor);
    if (own.length === 3 || own[3] === 1) return own;
  }
  return [255, 255, 255];
};
for (const each of all("body *")) {
  const words = [...each.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
  if (!words || !seen(each) || each.matches(":disabled, option")) continue;
  const style = getComputedStyle(each);
  const large = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.66 && Number(style.fontWeight) >= 700);
  const found = ratio(colour(style.color), ground(each));
  if (found < (large ? 3 : 4.5)) problems.push(`contrast ${found.toFixed(2)}: ${told(each)}`);
}
for (const each of all("input:not([type=hidden]), select, textarea, button:not(:disabled)")) {
  if (!seen(each)) continue;
  const style = getComputedStyle(each);
  const edge = Math.max(ratio(colour(style.borderTopColor), ground(each.parentElement)), ratio(ground(each), ground(each.parentElement)));
  if (edge < 3) problems.push(`edge ${edge.toFixed(2)}: ${told(each)}`);
  // 2.5.8: targets of 24 by 24 pixels at least.
  const { width, height } = each.getBoundingClientRect();
  if (width < 24 || height < 24) problems.push(`target ${width}x${height}: ${told(each)}`);
}
return problems;
