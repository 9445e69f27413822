// Markdown as elements. Text is only ever set as text, so that nothing an answer says becomes markup of the page.

const INLINE = /(`+)(.+?)\1(?!`)|\*\*(?=\S)(.+?)\*\*|\*(?=\S)([^*]*?[^*\s])\*(?!\*)|\[([^\]]+)\]\(([^()\s]+)\)/s;
const FENCE = /^ {0,3}(```+|~~~+)\s*([\w+#.-]*)[^`]*$/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])\s+(.*)$/;
const SAFE_LINK = /^(https?:|mailto:)/i;

export function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function inline(text) {
  const parts = [];
  for (let found = INLINE.exec(text); found; found = INLINE.exec(text)) {
    parts.push(text.slice(0, found.index));
    const [all, , code, strong, emphasis, label, target] = found;
    if (code !== undefined) {
      parts.push(element("code", { textContent: code.replace(/^ (.*) $/s, "$1") }));
    } else if (strong !== undefined) {
      parts.push(element("strong", {}, ...inline(strong)));
    } else if (emphasis !== undefined) {
      parts.push(element("em", {}, ...inline(emphasis)));
    } else if (SAFE_LINK.test(target)) {
      parts.push(element("a", { href: target, target: "_blank", rel: "noopener noreferrer" }, ...inline(label)));
    } else {
      parts.push(all);
    }
    text = text.slice(found.index + all.length);
  }
  return [...parts, text].filter((part) => part !== "");
}

function codeBlock(text, language) {
  const code = element("code", { textContent: text });
  const copy = element("button", { type: "button", textContent: "Copy" });
  copy.setAttribute("aria-label", `Copy this code${language ? `, ${language}` : ""}`);
  copy.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text);
      copy.textContent = "Copied";
    } catch { // browsers let pages copy from this machine or by TLS alone
      getSelection().selectAllChildren(code);
      copy.textContent = "Selected";
    }
  });
  return element("div", { className: "code" },
    element("div", { className: "head" }, element("span", { textContent: language }), copy),
    element("pre", { tabIndex: 0 }, code));
}

function table(rows) {
  const cells = (row) => row.trim().replace(/^\||\|$/g, "").split(/(?<!\\)\|/).map((cell) => cell.trim());
  const line = (row, kind) => element("tr", {}, ...cells(row).map((cell) => element(kind, {}, ...inline(cell))));
  const [head, , ...rest] = rows;
  const body = element("tbody", {}, ...rest.map((row) => line(row, "td")));
  return element("table", {}, element("thead", {}, line(head, "th")), body);
}

function list(lines) {
  const [, indent, mark] = ITEM.exec(lines[0]);
  const made = element(/\d/.test(mark) ? "ol" : "ul");
  if (/\d/.test(mark)) {
    made.start = parseInt(mark, 10);
  }
  let own = [];
  const close = () => own.length && made.append(element("li", {}, ...blocks(own)));
  for (const line of lines) {
    const item = ITEM.exec(line);
    if (item && item[1].length <= indent.length) {
      close();
      own = [item[3]];
    } else {
      own.push(line.slice(Math.min(indent.length + mark.length + 1, line.search(/\S|$/))));
    }
  }
  close();
  return made;
}

function takeWhile(lines, start, goesOn) {
  let end = start;
  while (end < lines.length && goesOn(lines[end])) {
    end += 1;
  }
  return end;
}

const begins = (line) => FENCE.test(line) || ITEM.test(line) || /^(#{1,6}\s|>|\s*$|-{3,}\s*$)/.test(line);

// [elements, index of the next line] of the block that begins at a line.
function block(lines, at) {
  const line = lines[at];
  const fence = FENCE.exec(line);
  if (fence) {
    const end = takeWhile(lines, at + 1, (one) => !(one.trim().startsWith(fence[1]) && !one.trim().replace(/[`~]/g, "")));
    return [codeBlock(lines.slice(at + 1, end).join("\n"), fence[2]), end + 1];
  }
  const heading = /^(#{1,6})\s+(.*?)\s*#*$/.exec(line);
  if (heading) {
    return [element(`h${Math.min(5, heading[1].length + 2)}`, {}, ...inline(heading[2])), at + 1];
  }
  if (/^-{3,}\s*$/.test(line)) {
    return [element("hr"), at + 1];
  }
  if (line.startsWith(">")) {
    const end = takeWhile(lines, at, (one) => one.startsWith(">"));
    return [element("blockquote", {}, ...blocks(lines.slice(at, end).map((one) => one.replace(/^> ?/, "")))), end];
  }
  if (ITEM.test(line)) {
    const end = takeWhile(lines, at + 1, (one) => ITEM.test(one) || /^\s+\S/.test(one));
    return [list(lines.slice(at, end)), end];
  }
  if (line.includes("|") && /^[\s|:-]*-[\s|:-]*$/.test(lines[at + 1] ?? "") && lines[at + 1].includes("|")) {
    const end = takeWhile(lines, at + 2, (one) => one.includes("|"));
    return [table(lines.slice(at, end)), end];
  }
  const end = takeWhile(lines, at + 1, (one) => !begins(one));
  const text = inline(lines.slice(at, end).join("\n"));
  const broken = text.flatMap((part) => typeof part === "string"
    ? part.split("\n").flatMap((one, number) => (number ? [element("br"), one] : [one])) : [part]);
  return [element("p", {}, ...broken), end];
}

function blocks(lines) {
  const made = [];
  let at = 0;
  while (at < lines.length) {
    if (lines[at].trim() === "") {
      at += 1;
      continue;
    }
    const [one, next] = block(lines, at);
    made.push(one);
    at = next;
  }
  return made;
}

export function markdown(text) {
  return blocks(text.split("\n"));
}
