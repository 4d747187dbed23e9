// What is wrong with the page as it is shown, as lines of text; of a drawing that is opened by itself, too.
const problems = [];
const short = (element) => `${element.localName} "${element.textContent.trim().slice(0, 40)}"`;
const page = document.documentElement.localName === "html";

// Colours: [red, green, blue, alpha].
const parsed = (color) => {
  const numbers = color.match(/[\d.]+/g)?.map(Number) ?? [0, 0, 0, 0];
  return numbers.length === 3 ? [...numbers, 1] : numbers;
};
const luminance = (color) => {
  const [red, green, blue] = color.slice(0, 3).map((part) => {
    const share = part / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
};
const contrast = (one, other) => {
  const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
};
const groundOf = (element) => {
  const drawing = element.closest("svg");
  if (drawing) return parsed(getComputedStyle(drawing.querySelector("rect")).fill);
  for (let at = element; at; at = at.parentElement) {
    const ground = parsed(getComputedStyle(at).backgroundColor);
    if (ground[3] === 1) return ground;
  }
  return [255, 255, 255, 1];
};

// Everything that holds text itself: its size and its contrast.
const unseen = "script, style, title, desc";
for (const element of document.querySelectorAll("body, body *, svg text")) {
  const text = [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim());
  const box = element.getBoundingClientRect();
  if (!text || element.closest(unseen) || box.width === 0) continue;
  const style = getComputedStyle(element);
  const drawing = element.closest("svg");
  const scale = drawing ? drawing.getBoundingClientRect().width / drawing.viewBox.baseVal.width : 1;
  const size = parseFloat(style.fontSize) * scale;
  if (size < 9) problems.push(`letters of ${size.toFixed(1)} px: ${short(element)}`);
  const ratio = contrast(parsed(drawing ? style.fill : style.color), groundOf(element));
  if (ratio < 4.5) problems.push(`contrast of ${ratio.toFixed(2)}: ${short(element)}`);
}

const inside = (inner, outer) =>
  inner.left >= outer.left - 1 && inner.right <= outer.right + 1 && inner.top >= outer.top - 1 && inner.bottom <= outer.bottom + 1;
const apart = (one, other) =>
  one.right <= other.left || other.right <= one.left || one.bottom <= other.top || other.bottom <= one.top;

for (const drawing of document.querySelectorAll("svg.plot")) {
  const box = drawing.getBoundingClientRect();
  if (box.width < 200 || box.height < 150) problems.push(`a plot of ${box.width} by ${box.height} px`);
  const texts = [...drawing.querySelectorAll("text")].map((text) => [text, text.getBoundingClientRect()]);
  if (texts.length === 0) problems.push("a plot without text");
  texts.forEach(([text, place], number) => {
    if (!inside(place, box)) problems.push(`outside of its plot: ${short(text)}`);
    for (const [other, there] of texts.slice(number + 1))
      if (!apart(place, there)) problems.push(`over each other: ${short(text)}, ${short(other)}`);
  });
  if (!drawing.querySelector("title").textContent || !drawing.querySelector("desc").textContent)
    problems.push("a plot without title or description");
}

if (page) {
  const wide = document.documentElement.scrollWidth;
  if (wide > innerWidth) problems.push(`${wide} px wide, of ${innerWidth}`);
  for (const figure of document.querySelectorAll(".plots figure"))
    if (!figure.querySelector("svg.plot")) problems.push(`no plot: ${short(figure)}`);
  for (const table of document.querySelectorAll(".table")) {
    const box = table.querySelector("table")?.getBoundingClientRect();
    if (!box?.width || !box?.height) problems.push(`no table: ${short(table)}`);
  }
  for (const cell of document.querySelectorAll("th, td")) {
    const range = document.createRange();
    range.selectNodeContents(cell);
    if (cell.textContent && !inside(range.getBoundingClientRect(), cell.getBoundingClientRect()))
      problems.push(`cut off: ${short(cell)}`);
  }
  // The column that names the rows stays where it is.
  for (const box of document.querySelectorAll(".scroll")) {
    box.scrollLeft = 1e6;
    const gap = box.querySelector("th").getBoundingClientRect().left - box.getBoundingClientRect().left;
    if (Math.abs(gap) > 1) problems.push(`the first column scrolls away: ${short(box)}`);
    box.scrollLeft = 0;
  }
  const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
  if (new Set(ids).size < ids.length) problems.push("an id is there twice");
  for (const link of document.querySelectorAll("a[href^='#']"))
    if (!document.getElementById(link.hash.slice(1))) problems.push(`leads nowhere: ${link.hash}`);
}
// What is asked of files leaves no trace there.
for (const element of document.querySelectorAll("[src], link[href]"))
  if (!(element.src ?? element.href).startsWith("data:")) problems.push(`asks for ${element.outerHTML}`);
for (const { name } of performance.getEntriesByType("resource")) problems.push(`asks for ${name}`);
return problems;
