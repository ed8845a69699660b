// Views, settings, keys and the keyboard: puts the parts together.

// ---- light and dark

function applyTheme() {
  const t = store.get('theme', '');
  if (t === 'light' || t === 'dark') document.documentElement.dataset.theme = t;
  else delete document.documentElement.dataset.theme;
}
applyTheme();

function changeTheme() {
  const set = document.documentElement.dataset.theme;
  const dark = set ? set === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches;
  store.set('theme', dark ? 'light' : 'dark');
  applyTheme();
}

// ---- views

function showView(name) {
  for (const v of ['chat', 'cluster']) {
    const on = v === name;
    $('view-' + v).hidden = !on;
    $('tab-' + v).setAttribute('aria-selected', String(on));
    $('tab-' + v).tabIndex = on ? 0 : -1;
  }
  $('drawer-open').hidden = name !== 'chat';
  if (location.hash.slice(1) !== name) history.replaceState(null, '', name === 'chat' ? location.pathname : '#' + name);
  if (name === 'cluster') showCluster();
  else toEnd();
}

// ---- settings

function openSettings() {
  const s = store.get('settings', {});
  $('set-system').value = s.system || '';
  for (const [name] of SAMPLING) $('set-' + name).value = typeof s[name] === 'number' ? s[name] : '';
  $('set-thinking').checked = s.thinking !== false;
  $('set-key').value = access.key;
  $('set-keep').checked = access.kept;
  $('settings').showModal();
}

function takeSettings() {
  const s = {};
  if ($('set-system').value.trim()) s.system = $('set-system').value;
  for (const [name, , min, max] of SAMPLING) {
    const text = $('set-' + name).value;
    const v = Number(text);
    if (text !== '' && Number.isFinite(v) && v >= min && v <= max) s[name] = v;
  }
  if (!$('set-thinking').checked) s.thinking = false;
  store.set('settings', s);
  access.set($('set-key').value.trim(), $('set-keep').checked);
}

// One question at a time, however many requests were refused; resolves when it was answered.
let keyAsked = null;
function askForKey(why) {
  if (keyAsked) return keyAsked;
  $('key-why').textContent = (access.key ? why + '. ' : '') + 'Whoever started the server has one: a line of the file given as --api-key-file.';
  $('key-value').value = '';
  $('key').showModal();
  keyAsked = new Promise((done) => {
    $('key').addEventListener('close', () => {
      if ($('key-value').value.trim()) access.set($('key-value').value.trim(), $('key-keep').checked);
      keyAsked = null;
      done();
    }, { once: true });
  });
  return keyAsked;
}

// ---- wiring

function start() {
  for (const [name, label, min, max, step] of SAMPLING)
    $('sampling').append(el('label', { class: 'field' }, label, el('input', { id: 'set-' + name, type: 'number', min, max, step: step < 1 ? 'any' : step, inputmode: 'decimal', placeholder: 'default' })));
  loadConversations();
  showConversation();
  showConversations();
  fitPrompt();

  $('theme').addEventListener('click', changeTheme);
  for (const v of ['chat', 'cluster']) {
    $('tab-' + v).addEventListener('click', () => showView(v));
    $('tab-' + v).addEventListener('keydown', (e) => {
      if (e.key !== 'ArrowLeft' && e.key !== 'ArrowRight') return;
      const other = v === 'chat' ? 'cluster' : 'chat';
      showView(other);
      $('tab-' + other).focus();
    });
  }
  addEventListener('hashchange', () => showView(location.hash === '#cluster' ? 'cluster' : 'chat'));
  showView(location.hash === '#cluster' ? 'cluster' : 'chat');

  $('composer').addEventListener('submit', (e) => {
    e.preventDefault();
    send($('prompt').value);
  });
  $('prompt').addEventListener('input', fitPrompt);
  $('prompt').addEventListener('keydown', (e) => {
    // Enter sends; while an input method composes it belongs to that
    if (e.key === 'Enter' && !e.shiftKey && !e.isComposing) {
      e.preventDefault();
      send($('prompt').value);
    }
  });
  $('stop').addEventListener('click', stopReply);
  $('new-chat').addEventListener('click', () => openConversation(newConversation()));
  $('drawer-open').addEventListener('click', () => $('drawer').classList.toggle('open'));
  addEventListener('click', (e) => {
    if (!$('drawer').contains(e.target) && !$('drawer-open').contains(e.target)) $('drawer').classList.remove('open');
  });
  addEventListener('keydown', (e) => {
    if (e.key !== 'Escape' || $('settings').open || $('key').open) return;
    if ($('drawer').classList.contains('open')) $('drawer').classList.remove('open');
    else stopReply();
  });
  $('scroller').addEventListener('scroll', () => {
    const s = $('scroller');
    chat.follow = s.scrollHeight - s.scrollTop - s.clientHeight < 60;
    $('to-end').hidden = chat.follow;
  });
  $('to-end').addEventListener('click', () => toEnd(true));
  $('settings-open').addEventListener('click', openSettings);
  $('settings').addEventListener('close', takeSettings);
  $('set-reset').addEventListener('click', () => {
    $('set-system').value = '';
    for (const [name] of SAMPLING) $('set-' + name).value = '';
    $('set-thinking').checked = true;
  });
  // another tab has kept its conversations: take them over, the one at hand stays
  addEventListener('storage', (e) => {
    if (e.key !== 'cake.conversations' || chat.running) return;
    const id = chat.current.id;
    const mine = chat.current;
    loadConversations();
    chat.current = chat.all.find((c) => c.id === id) || (mine.messages.length ? chat.current : mine);
    showConversation();
    showConversations();
  });
  setInterval(() => {
    if ($('view-cluster').hidden || !cluster.picture || performance.now() - cluster.at < 1500) return;
    showCluster(); // the ages go on while nothing comes
  }, 1000);
  followCluster();
  if (!matchMedia('(pointer: coarse)').matches) $('prompt').focus(); // a phone's keyboard would cover the page
}
start();
