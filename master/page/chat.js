// Conversations: kept in this browser, sent whole with every message, shown as they stream in.

const SAMPLING = [
  ['temperature', 'Temperature', 0, 2, 0.05],
  ['top_p', 'Top-p', 0, 1, 0.01],
  ['top_k', 'Top-k', 0, 1000, 1],
  ['min_p', 'Min-p', 0, 1, 0.01],
  ['max_tokens', 'Most tokens', 1, 1000000, 1],
  ['seed', 'Seed', 0, 9007199254740991, 1],
];
const KEEP_CONVERSATIONS = 60;

const chat = {
  all: [], // conversations, newest first: {id, title, messages}
  current: null,
  running: null, // AbortController of the reply under way
  follow: true,
};

// ---- keeping

function newConversation() {
  return { id: String(Date.now()) + Math.random().toString(36).slice(2, 6), title: '', messages: [] };
}

function loadConversations() {
  const all = store.get('conversations', []);
  chat.all = (Array.isArray(all) ? all : []).filter((c) => c && c.id && Array.isArray(c.messages));
  chat.current = chat.all.find((c) => c.id === store.get('current', '')) || chat.all[0] || newConversation();
}

function keepConversations() {
  const used = chat.all.filter((c) => c.messages.length);
  if (chat.current.messages.length && !used.includes(chat.current)) used.unshift(chat.current);
  chat.all = used.slice(0, KEEP_CONVERSATIONS);
  // a full store gives up the oldest conversations, never the one at hand
  while (!store.set('conversations', chat.all) && chat.all.length > 1) chat.all.pop();
  store.set('current', chat.current.id);
}

function titleOf(c) {
  const first = c.messages.find((m) => m.role === 'user');
  return (first && first.content.trim().split('\n')[0].slice(0, 60)) || 'New conversation';
}

function showConversations() {
  $('conversations').replaceChildren(...chat.all.map((c) =>
    el('li', { class: c === chat.current ? 'current' : '' },
      el('button', { type: 'button', class: 'open', 'aria-current': c === chat.current ? 'true' : null, onclick: () => openConversation(c) }, titleOf(c)),
      el('button', { type: 'button', class: 'drop', 'aria-label': 'Delete: ' + titleOf(c), title: 'Delete', onclick: () => dropConversation(c) }, icon(ICONS.drop)))));
}

function openConversation(c) {
  stopReply();
  chat.current = c;
  store.set('current', c.id);
  $('drawer').classList.remove('open');
  chat.follow = true;
  showConversation();
  showConversations();
  $('prompt').focus();
}

function dropConversation(c) {
  if (c === chat.current) stopReply();
  chat.all = chat.all.filter((x) => x !== c);
  if (c === chat.current) chat.current = chat.all[0] || newConversation();
  store.set('conversations', chat.all);
  openConversation(chat.current);
}

// ---- showing

const IDEAS = ['Why is the sky blue?', 'Write a haiku about rain', 'Explain recursion to a child', 'A short story about a lighthouse'];

function showEmpty() {
  const mark = $('log').ownerDocument.querySelector('.brand svg').cloneNode(true);
  $('log').replaceChildren(el('div', { class: 'empty' }, mark,
    el('h1', null, 'What shall we talk about?'),
    el('p', null, 'The model runs on your own machines. What you write stays in this browser and on them.'),
    el('div', { class: 'ideas' }, ...IDEAS.map((t) => el('button', { type: 'button', onclick: () => send(t) }, t)))));
}

function showConversation() {
  const messages = chat.current.messages;
  if (!messages.length) showEmpty();
  else $('log').replaceChildren(...messages.map((m, i) => (m.role === 'user' ? userNode(m) : replyView(m, i === messages.length - 1).node)));
  toEnd(true);
}

function userNode(m) {
  return el('div', { class: 'user' }, el('span', { class: 'unseen' }, 'You: '), m.content);
}

// A reply on the page; update() shows what its message holds now.
function replyView(m, last) {
  const thought = el('pre');
  const summary = el('summary');
  const think = el('details', { class: 'think', hidden: true }, summary, thought);
  const text = el('div', { class: 'text' });
  const wait = el('div', { class: 'waiting', role: 'img', 'aria-label': 'The model is reading' }, el('i'), el('i'), el('i'));
  const tail = el('div');
  const meta = el('div', { class: 'meta' });
  const node = el('article', { class: 'assistant', 'aria-label': 'Reply' }, think, wait, text, tail, meta);
  const markdown = new Markdown.View(text);
  let shown = '';
  const view = {
    node,
    update(running) {
      if (m.thinking) {
        think.hidden = false;
        const busy = running && !m.content;
        summary.textContent = busy ? 'Thinking …' : m.thought_s ? 'Thought for ' + formatDuration(m.thought_s) : 'Thought';
        if (thought.textContent !== m.thinking) thought.textContent = m.thinking;
      }
      if (m.content !== shown) markdown.update((shown = m.content));
      wait.hidden = !running || !!m.content || !!m.thinking;
      text.classList.toggle('caret', !!running && !!m.content && !text.childElementCount);
      for (const c of text.querySelectorAll('.caret')) c.classList.remove('caret');
      let end = text.lastElementChild;
      while (running && end && ['UL', 'OL', 'LI'].includes(end.tagName) && end.lastElementChild) end = end.lastElementChild;
      if (running && end && ['P', 'LI', 'H1', 'H2', 'H3', 'H4'].includes(end.tagName)) end.classList.add('caret');
      if (running) return;
      tail.replaceChildren();
      if (m.error) {
        const again = last && el('button', { type: 'button', onclick: regenerate }, 'Try again');
        tail.append(el('div', { class: 'failed', role: 'alert' }, m.error, again));
      }
      const parts = [];
      if (m.content) {
        const b = el('button', { type: 'button', onclick: () => copyText(m.content, b) }, icon(ICONS.copy), 'Copy');
        parts.push(b);
      }
      if (last && !m.error) parts.push(el('button', { type: 'button', onclick: regenerate }, icon(ICONS.again), 'Again'));
      const s = m.stats || {};
      if (m.stopped) parts.push(el('span', null, 'stopped'));
      if (m.cut) parts.push(el('span', { title: 'The limit of tokens or the end of the context was reached' }, 'cut short'));
      if (s.tokens) parts.push(el('span', null, plural(s.tokens, 'token')));
      if (s.rate) parts.push(el('span', null, formatRate(s.rate) + ' tokens/s'));
      if (s.first_s) parts.push(el('span', { title: 'Until the first word' }, formatMs(s.first_s * 1000) + ' to begin'));
      if (s.prompt) parts.push(el('span', null, 'prompt of ' + s.prompt.toLocaleString('en') + (s.cached ? ', ' + s.cached.toLocaleString('en') + ' of it known' : '')));
      meta.replaceChildren(...parts);
    },
  };
  view.update(false);
  return view;
}

function toEnd(force) {
  const s = $('scroller');
  if (force) chat.follow = true;
  if (chat.follow) s.scrollTop = s.scrollHeight;
  $('to-end').hidden = chat.follow;
}

// ---- asking

function settingsBody() {
  const s = store.get('settings', {});
  const body = {};
  for (const [name] of SAMPLING) if (typeof s[name] === 'number') body[name] = s[name];
  if (s.thinking === false) body.chat_template_kwargs = { enable_thinking: false };
  return body;
}

// Thinking between tags, of servers that do not separate it.
function splitThinking(raw) {
  const m = /^\s*<think>([\s\S]*?)(<\/think>\s*([\s\S]*)|$)/.exec(raw);
  if (m) return [m[1], m[3] || ''];
  return '<think>'.startsWith(raw.trim()) && raw.trim() ? ['', ''] : ['', raw];
}

async function ask(conversation) {
  const m = { role: 'assistant', content: '' };
  const system = store.get('settings', {}).system;
  const messages = conversation.messages.map(({ role, content }) => ({ role, content }));
  if (system) messages.unshift({ role: 'system', content: system });
  conversation.messages.push(m);
  const controller = (chat.running = new AbortController());
  setRunning(true);
  const view = replyView(m, true);
  view.update(true);
  for (const b of $('log').querySelectorAll('.meta button:not(:first-child), .failed button')) b.remove();
  $('log').append(view.node);
  toEnd(true);

  const start = performance.now();
  let first = 0, lastAt = 0, pieces = 0, raw = '', reasoning = '', finish = null, usage = null, frame = 0;
  const paint = () => {
    frame = 0;
    if (chat.current !== conversation) return;
    view.update(true);
    const s = (lastAt - first) / 1000;
    $('foot-rate').textContent = pieces > 2 && s > 0.2 ? formatRate((pieces - 1) / s) + ' tokens/s' : '';
    toEnd();
  };
  try {
    const r = await fetch('/v1/chat/completions', {
      method: 'POST',
      headers: headers({ 'Content-Type': 'application/json' }),
      body: JSON.stringify({ ...settingsBody(), messages, stream: true, stream_options: { include_usage: true } }),
      signal: controller.signal,
    });
    if (!r.ok) throw await refusal(r);
    let done = false;
    await readEvents(r, (data) => {
      if (data === '[DONE]') return void (done = true);
      const e = JSON.parse(data);
      if (e.error) throw new ServerError(e.error.message || 'The server failed.', 200, e.error.code);
      if (e.usage) usage = e.usage;
      const c = e.choices && e.choices[0];
      if (!c) return;
      if (c.finish_reason) finish = c.finish_reason;
      const d = c.delta || {};
      const think = d.reasoning_content || d.reasoning || '';
      if (!think && !d.content) return;
      lastAt = performance.now();
      if (!first) first = lastAt;
      pieces++;
      reasoning += think;
      raw += d.content || '';
      const [tagged, answer] = splitThinking(raw);
      m.thinking = reasoning + tagged || undefined;
      if (answer && !m.content && m.thinking) m.thought_s = (lastAt - first) / 1000;
      m.content = answer;
      if (!frame) frame = requestAnimationFrame(paint);
    });
    if (!done && !finish) throw new ServerError('The connection ended before the reply did.', 0);
  } catch (e) {
    if (controller.signal.aborted) m.stopped = true;
    else if (e instanceof ServerError) {
      m.error = e.message;
      if (e.status === 401) askForKey(e.message);
    } else m.error = 'The server does not answer: ' + (e.message || e) + '. Is cake-master still running?';
  }
  if (frame) cancelAnimationFrame(frame);
  if (finish === 'length') m.cut = true;
  const tokens = usage ? usage.completion_tokens : pieces;
  const seconds = (lastAt - first) / 1000;
  m.stats = {
    tokens,
    rate: tokens > 1 && seconds > 0 ? (tokens - 1) / seconds : 0,
    first_s: first ? (first - start) / 1000 : 0,
    prompt: usage ? usage.prompt_tokens : 0,
    cached: (usage && usage.prompt_tokens_details && usage.prompt_tokens_details.cached_tokens) || 0,
  };
  if (chat.running === controller) {
    chat.running = null;
    setRunning(false);
  }
  if (chat.current === conversation) {
    view.update(false);
    toEnd();
    $('spoken').textContent = m.error ? m.error : m.content.slice(0, 2000);
  }
  keepConversations();
  showConversations();
}

function send(text) {
  text = text.trim();
  if (!text || chat.running) return;
  const c = chat.current;
  const last = c.messages[c.messages.length - 1];
  if (last && last.role === 'assistant' && last.error && !last.content) c.messages.pop(); // nothing was said
  if (c.messages.length === 0 || (last && last.error)) $('log').replaceChildren(...c.messages.map((m) => (m.role === 'user' ? userNode(m) : replyView(m, false).node)));
  const m = { role: 'user', content: text };
  c.messages.push(m);
  $('log').append(userNode(m));
  $('prompt').value = '';
  fitPrompt();
  keepConversations();
  showConversations();
  ask(c);
}

function regenerate() {
  if (chat.running) return;
  const c = chat.current;
  while (c.messages.length && c.messages[c.messages.length - 1].role === 'assistant') c.messages.pop();
  if (!c.messages.length) return;
  showConversation();
  ask(c);
}

function stopReply() {
  if (chat.running) chat.running.abort();
}

function setRunning(on) {
  $('send').hidden = on;
  $('stop').hidden = !on;
  if (!on) $('foot-rate').textContent = '';
}

function fitPrompt() {
  const p = $('prompt');
  p.style.height = 'auto';
  p.style.height = p.scrollHeight + 'px';
  $('send').disabled = !p.value.trim();
}
