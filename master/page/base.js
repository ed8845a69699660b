// What the other parts of the page share: elements, storage, numbers as people read them, requests.
// The parts are one script, put together by the Makefile; nothing comes from elsewhere.
'use strict';

const $ = (id) => document.getElementById(id);

// Elements are made here and only here: text goes in as text, never as HTML.
function el(tag, attrs, ...children) {
  const e = document.createElement(tag);
  for (const [k, v] of Object.entries(attrs || {})) {
    if (v === undefined || v === null || v === false) continue;
    if (k.startsWith('on')) e.addEventListener(k.slice(2), v);
    else if (k === 'class') e.className = v;
    else e.setAttribute(k, v === true ? '' : v);
  }
  e.append(...children.filter((c) => c !== null && c !== undefined && c !== false));
  return e;
}

function icon(paths) {
  const ns = 'http://www.w3.org/2000/svg';
  const svg = document.createElementNS(ns, 'svg');
  svg.setAttribute('viewBox', '0 0 24 24');
  svg.setAttribute('aria-hidden', 'true');
  for (const d of [].concat(paths)) {
    const p = document.createElementNS(ns, 'path');
    p.setAttribute('d', d);
    svg.append(p);
  }
  return svg;
}
const ICONS = {
  copy: 'M9 9h10v11H9zM5 15V4h10',
  again: 'M20 11a8 8 0 1 0-2.3 6.3M20 5v6h-6',
  drop: 'M6 6l12 12M18 6L6 18',
  done: 'M5 13l5 5 9-11',
};

// ---- storage: a browser that refuses it only loses what it would keep

const store = {
  get(key, otherwise) {
    try {
      const v = JSON.parse(localStorage.getItem('cake.' + key));
      return v === null || v === undefined ? otherwise : v;
    } catch {
      return otherwise;
    }
  },
  set(key, value) {
    try {
      localStorage.setItem('cake.' + key, JSON.stringify(value));
      return true;
    } catch {
      return false;
    }
  },
};

const access = {
  get key() {
    try {
      return sessionStorage.getItem('cake.key') || localStorage.getItem('cake.key') || '';
    } catch {
      return '';
    }
  },
  get kept() {
    try {
      return localStorage.getItem('cake.key') !== null;
    } catch {
      return false;
    }
  },
  set(key, keep) {
    try {
      sessionStorage.removeItem('cake.key');
      localStorage.removeItem('cake.key');
      if (key) (keep ? localStorage : sessionStorage).setItem('cake.key', key);
    } catch {
      /* asked for again next time */
    }
  },
};

// ---- numbers

function formatBytes(n) {
  if (!(n > 0)) return '0 B';
  const units = ['B', 'kB', 'MB', 'GB', 'TB'];
  let i = 0;
  while (n >= 999.5 && i < units.length - 1) (n /= 1000), i++;
  return (i === 0 || n >= 99.5 ? n.toFixed(0) : n >= 9.95 ? n.toFixed(1) : n.toFixed(2)) + ' ' + units[i];
}
function formatMs(ms) {
  if (!(ms > 0)) return '–';
  if (ms >= 10000) return (ms / 1000).toFixed(0) + ' s';
  if (ms >= 1000) return (ms / 1000).toFixed(1) + ' s';
  return (ms >= 99.5 ? ms.toFixed(0) : ms >= 9.95 ? ms.toFixed(1) : ms >= 0.995 ? ms.toFixed(2) : ms.toFixed(3)) + ' ms';
}
function formatRate(n) {
  if (!(n > 0)) return '0';
  return n >= 99.5 ? Math.round(n).toLocaleString('en') : n >= 9.95 ? n.toFixed(1) : n.toFixed(2);
}
function formatAgo(ms) {
  if (!(ms >= 0)) return 'never';
  const s = ms / 1000;
  if (s < 2.5) return 'now';
  if (s < 90) return Math.round(s) + ' s ago';
  if (s < 5400) return Math.round(s / 60) + ' min ago';
  return Math.round(s / 3600) + ' h ago';
}
function formatDuration(s) {
  if (!(s >= 0) || !isFinite(s)) return '';
  if (s < 90) return Math.ceil(s) + ' s';
  return s < 5400 ? Math.round(s / 60) + ' min' : (s / 3600).toFixed(1) + ' h';
}
const plural = (n, what) => n.toLocaleString('en') + ' ' + what + (n === 1 ? '' : 's');

// ---- requests

class ServerError extends Error {
  constructor(message, status, code) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

function headers(more) {
  const h = { ...more };
  if (access.key) h.Authorization = 'Bearer ' + access.key;
  return h;
}

async function refusal(r) {
  let e = {};
  try {
    e = (await r.json()).error || {};
  } catch {
    /* no JSON: the status has to do */
  }
  return new ServerError(e.message || 'The server answers with status ' + r.status + '.', r.status, e.code);
}

// The data of each event of a stream; fn may throw to end it. Resolves when the server ends it.
async function readEvents(response, fn) {
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  let rest = '';
  for (;;) {
    const { done, value } = await reader.read();
    rest += done ? decoder.decode() : decoder.decode(value, { stream: true });
    let at;
    while ((at = rest.search(/\r?\n\r?\n/)) >= 0) {
      const event = rest.slice(0, at);
      rest = rest.slice(at).replace(/^\r?\n\r?\n/, '');
      const data = event
        .split(/\r?\n/)
        .filter((l) => l.startsWith('data:'))
        .map((l) => l.slice(5).replace(/^ /, ''))
        .join('\n');
      if (data) fn(data);
    }
    if (done) return;
  }
}

async function copyText(text, button, plain) {
  let ok = true;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // not a secure context (another machine over http): the old way
    const t = el('textarea', { class: 'unseen' });
    t.value = text;
    document.body.append(t);
    t.select();
    ok = document.execCommand('copy');
    t.remove();
  }
  const before = [...button.childNodes];
  button.replaceChildren(...(plain ? [] : [icon(ICONS.done)]), ok ? 'Copied' : 'Not copied');
  setTimeout(() => button.replaceChildren(...before), 1400);
}
