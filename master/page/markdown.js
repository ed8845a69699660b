// Markdown of a model's reply as DOM nodes. Nothing is ever parsed as HTML: what looks like a tag is
// text, links lead to http, https and mailto only, images are shown as links. While a reply streams
// in, every block but the last is final, so only the last one is built again.

const Markdown = (() => {
  const MAX_DEPTH = 8;

  // ---- inside a line

  const ESCAPABLE = /[\\`*_{}[\]()#+\-.!|<>~]/;

  function safeLink(url) {
    return /^(https?:\/\/|mailto:)[^\s]+$/i.test(url) ? url : null;
  }

  function link(url, children) {
    return el('a', { href: url, target: '_blank', rel: 'noopener noreferrer nofollow' }, ...children);
  }

  // Where the closing run of `mark` begins; -1: nowhere.
  function closing(s, from, mark) {
    for (let i = from; i <= s.length - mark.length; i++) {
      if (s[i] === '\\') i++;
      else if (s[i] === '`') {
        const run = /^`+/.exec(s.slice(i))[0];
        const end = s.indexOf(run, i + run.length);
        if (end > 0) i = end + run.length - 1;
      } else if (s.startsWith(mark, i) && !/\s/.test(s[i - 1])) {
        if (mark.length === 1 && s[i + 1] === mark) i++;
        else if (mark[0] === '_' && /\w/.test(s[i + mark.length] || '')) continue;
        else return i;
      }
    }
    return -1;
  }

  function inline(s, depth = 0) {
    const out = [];
    let text = '';
    const flush = () => {
      if (text) out.push(text);
      text = '';
    };
    for (let i = 0; i < s.length; ) {
      const c = s[i];
      if (c === '\\' && ESCAPABLE.test(s[i + 1] || '')) {
        text += s[i + 1];
        i += 2;
        continue;
      }
      if (c === '\n') {
        const hard = /( {2,}|\\)$/.test(text);
        text = text.replace(/( +|\\)$/, '');
        flush();
        out.push(hard ? el('br') : '\n');
        i++;
        continue;
      }
      if (c === '`') {
        const run = /^`+/.exec(s.slice(i))[0];
        let end = i + run.length;
        do end = s.indexOf(run, end + (end > i + run.length ? 1 : 0));
        while (end > 0 && (s[end + run.length] === '`' || s[end - 1] === '`') && ++end);
        if (end > 0) {
          flush();
          let code = s.slice(i + run.length, end).replace(/\n/g, ' ');
          if (/^ .*[^ ].* $/.test(code)) code = code.slice(1, -1);
          out.push(el('code', null, code));
          i = end + run.length;
        } else {
          text += run;
          i += run.length;
        }
        continue;
      }
      const mark = s.startsWith('**', i) || s.startsWith('__', i) || s.startsWith('~~', i) ? s.slice(i, i + 2) : c;
      if ((mark.length === 2 || c === '*' || c === '_') && depth < MAX_DEPTH) {
        const opens = /\S/.test(s[i + mark.length] || '') && !(mark[0] === '_' && /\w/.test(s[i - 1] || ''));
        const end = opens ? closing(s, i + mark.length + 1, mark) : -1;
        if (end > 0) {
          flush();
          const tag = mark === '~~' ? 'del' : mark.length === 2 ? 'strong' : 'em';
          out.push(el(tag, null, ...inline(s.slice(i + mark.length, end), depth + 1)));
          i = end + mark.length;
          continue;
        }
        text += mark;
        i += mark.length;
        continue;
      }
      if (c === '[' || (c === '!' && s[i + 1] === '[')) {
        const m = /^!?\[((?:[^\[\]\\]|\\.|\[[^\]]*\])*)\]\(\s*<?([^\s()<>]*(?:\([^\s()]*\)[^\s()<>]*)*)>?(?:\s+["'(][^"')]*["')])?\s*\)/.exec(s.slice(i, i + 4096));
        if (m) {
          flush();
          const url = safeLink(m[2]);
          const inner = depth < MAX_DEPTH ? inline(m[1] || m[2], depth + 1) : [m[1]];
          if (url) out.push(link(url, inner));
          else out.push(...inner);
          i += m[0].length;
          continue;
        }
      }
      if (c === '<') {
        const m = /^<((?:https?:\/\/|mailto:)[^\s<>]+)>/i.exec(s.slice(i, i + 2048));
        if (m) {
          flush();
          out.push(link(m[1], [m[1]]));
          i += m[0].length;
          continue;
        }
      }
      if (c === 'h' && !/\w/.test(s[i - 1] || '')) {
        const m = /^https?:\/\/[^\s<>"'`]+/.exec(s.slice(i, i + 2048));
        if (m) {
          let url = m[0].replace(/[.,;:!?*_~]+$/, '');
          if (url.endsWith(')') && !url.includes('(')) url = url.slice(0, -1);
          flush();
          out.push(link(url, [url]));
          i += url.length;
          continue;
        }
      }
      text += c;
      i++;
    }
    flush();
    return out;
  }

  // ---- blocks

  const FENCE = /^( {0,3})(`{3,}|~{3,})\s*([^\s`]*)[^`]*$/;
  const HEADING = /^ {0,3}(#{1,6})\s+(.*?)\s*#*\s*$/;
  const RULE = /^ {0,3}([-*_])\s*(\1\s*){2,}$/;
  const ITEM = /^( *)([-*+]|\d{1,9}[.)])(\s+|$)/;
  const TABLE = /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;

  function codeBlock(language, text) {
    const button = el('button', { type: 'button', onclick: () => copyText(text, button) }, 'Copy');
    return el('div', { class: 'code' }, el('div', { class: 'bar' }, el('span', null, language || 'text'), button),
      el('pre', { tabindex: '0' }, el('code', null, text)));
  }

  function cells(line) {
    const s = line.trim().replace(/^\|/, '').replace(/\|$/, '');
    return s.split(/(?<!\\)\|/).map((c) => c.trim().replace(/\\\|/g, '|'));
  }

  function startsBlock(line) {
    return FENCE.test(line) || HEADING.test(line) || RULE.test(line) || /^ {0,3}>/.test(line) || ITEM.test(line);
  }

  // One block at lines[i]: [element or null, index behind it].
  function block(lines, i, depth) {
    const line = lines[i];
    if (!line.trim()) return [null, i + 1];
    let m = FENCE.exec(line);
    if (m) {
      const close = new RegExp('^ {0,3}' + (m[2][0] === '`' ? '`' : '~') + '{' + m[2].length + ',}\\s*$');
      let end = i + 1;
      while (end < lines.length && !close.test(lines[end])) end++;
      const indent = new RegExp('^ {0,' + m[1].length + '}');
      return [codeBlock(m[3], lines.slice(i + 1, end).map((l) => l.replace(indent, '')).join('\n')), end + 1];
    }
    if ((m = HEADING.exec(line))) return [el('h' + Math.min(m[1].length, 4), null, ...inline(m[2])), i + 1];
    if (RULE.test(line)) return [el('hr'), i + 1];
    if (/^ {0,3}>/.test(line) && depth < MAX_DEPTH) {
      let end = i;
      while (end < lines.length && (/^ {0,3}>/.test(lines[end]) || (lines[end].trim() && !startsBlock(lines[end])))) end++;
      const inner = lines.slice(i, end).map((l) => l.replace(/^ {0,3}> ?/, ''));
      return [el('blockquote', { class: 'text' }, ...blocks(inner, depth + 1)), end];
    }
    if (ITEM.test(line) && depth < MAX_DEPTH) return list(lines, i, depth);
    if (line.includes('|') && i + 1 < lines.length && TABLE.test(lines[i + 1]) && lines[i + 1].includes('-') &&
        cells(line).length === cells(lines[i + 1]).length) return table(lines, i);
    let end = i + 1;
    while (end < lines.length && lines[end].trim() && !startsBlock(lines[end])) end++;
    return [el('p', null, ...inline(lines.slice(i, end).map((l) => l.trimStart()).join('\n'))), end];
  }

  function table(lines, i) {
    let end = i + 2;
    while (end < lines.length && lines[end].includes('|')) end++;
    const width = cells(lines[i]).length;
    const row = (l, tag) => el('tr', null, ...cells(l).slice(0, width).map((c) => el(tag, null, ...inline(c))));
    return [el('div', { class: 'scroll-x', tabindex: '0' }, el('table', null, el('thead', null, row(lines[i], 'th')),
      el('tbody', null, ...lines.slice(i + 2, end).map((l) => row(l, 'td'))))), end];
  }

  function list(lines, i, depth) {
    const first = ITEM.exec(lines[i]);
    const ordered = /\d/.test(first[2]);
    const base = first[1].length;
    const items = [];
    while (i < lines.length) {
      const m = ITEM.exec(lines[i]);
      if (!m || m[1].length < base || m[1].length > base + 3 || /\d/.test(m[2]) !== ordered || RULE.test(lines[i])) break;
      const body = [lines[i].slice(m[0].length)];
      const indent = Math.min(m[0].length, base + 4);
      i++;
      while (i < lines.length) {
        const l = lines[i];
        const deep = l.length - l.trimStart().length;
        if (!l.trim()) {
          const next = lines.slice(i + 1).find((x) => x.trim());
          if (!next || next.length - next.trimStart().length < Math.min(indent, base + 2)) break;
          body.push('');
        } else if (deep >= Math.min(indent, base + 2)) body.push(l.slice(Math.min(deep, indent)));
        else if (!startsBlock(l) && body[body.length - 1].trim()) body.push(l.trimStart());
        else break;
        i++;
      }
      items.push(body);
      let next = i; // blank lines between items
      while (next < lines.length && !lines[next].trim()) next++;
      if (next > i && next < lines.length && ITEM.test(lines[next])) i = next;
    }
    const nodes = items.map((b) => {
      const inner = blocks(b, depth + 1);
      // a single line needs no paragraph
      if (inner.length && inner[0].tagName === 'P') inner.splice(0, 1, ...inner[0].childNodes);
      return el('li', null, ...inner);
    });
    const start = ordered ? parseInt(first[2], 10) : 1;
    return [el(ordered ? 'ol' : 'ul', start !== 1 ? { start } : null, ...nodes), i];
  }

  function blocks(lines, depth) {
    const out = [];
    for (let i = 0; i < lines.length; ) {
      const [node, next] = block(lines, i, depth);
      if (node) out.push(node);
      i = next;
    }
    return out;
  }

  // Shows a growing text in `into`: call update with all of it so far.
  class View {
    constructor(into) {
      this.into = into;
      this.fixed = 0; // lines that belong to final blocks
      this.nodes = []; // of the block that may still change
    }
    update(text) {
      const lines = text.replace(/\r\n?/g, '\n').split('\n');
      for (const n of this.nodes) n.remove();
      this.nodes = [];
      for (let i = this.fixed; i < lines.length; ) {
        const [node, next] = block(lines, i, 0);
        const blank = !node;
        if (node) this.into.append(node);
        // The last block may go on, and so may a list behind blank lines.
        const after = lines.slice(next).findIndex((l) => l.trim());
        if (!blank && after < 0) {
          this.nodes.push(node);
          return;
        }
        i = next;
        if (node) {
          const follows = lines[next + after];
          if (next + after === lines.length - 1 && follows.length < 12) {
            this.nodes.push(node); // the beginning of a line does not yet say what it is
          } else if (this.nodes.length === 0) {
            this.fixed = next;
          } else {
            this.nodes.push(node);
          }
        }
      }
    }
  }

  return { View, inline, blocks: (text) => blocks(text.split('\n'), 0) };
})();
