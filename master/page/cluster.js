// The cluster as the server's events show it: every event is the whole picture.

const cluster = { picture: null, states: new Map(), missed: new Set(), places: new Map(), held: new Map(), events: [], rates: [], at: 0 };

const HUES = 6;
// States in which somebody should look.
const BAD = new Set(['lost', 'failed', 'refused']);

const STATE_TEXT = {
  connecting: 'connecting', refused: 'refused', measuring: 'measuring', idle: 'not needed', fetching: 'receiving',
  loading: 'loading', ready: 'ready', failed: 'failed', lost: 'lost', busy: 'busy',
};

// ---- following

function onPicture(t) {
  cluster.picture = t;
  cluster.at = performance.now();
  // what is lost keeps its place and what it held, until there is another plan
  if (t.stages.length) {
    const order = [...new Set(t.stages.map((s) => s.node))];
    cluster.places.clear(); // by address, which is known before name and id are
    for (const n of t.nodes) {
      if (!n.used || !order.includes(n.id)) continue;
      cluster.places.set(n.address, order.indexOf(n.id));
      cluster.held.set(n.address, n.layers);
    }
  }
  noteChanges(t);
  if (t.status === 'ready') {
    cluster.rates.push(t.tokens_per_second || 0);
    if (cluster.rates.length > 90) cluster.rates.shift();
  }
  showStatus(t.status, t);
  if (!$('view-cluster').hidden) showCluster();
}

// What changed since the last picture, for the list of events.
function noteChanges(t) {
  const fresh = cluster.states.size === 0;
  const say = (text, how) => {
    cluster.events.unshift({ at: new Date(), text, how });
    cluster.events.length = Math.min(cluster.events.length, 40);
  };
  const now = new Map();
  for (const n of t.nodes) {
    const key = n.address; // known before its name and id are
    const was = cluster.states.get(key);
    now.set(key, n.state);
    if (was === n.state) continue;
    if (BAD.has(n.state)) {
      if (!cluster.missed.has(key)) say(n.name + ' is ' + STATE_TEXT[n.state] + ': ' + (n.reason || 'no reason given'), 'bad');
      cluster.missed.add(key);
    } else if (n.state === 'ready') {
      if (!fresh && !n.local) say(n.name + (cluster.missed.has(key) ? ' is back' : ' is ready') + (n.layers ? ' with ' + layersText(n.layers) : ''), 'good');
      cluster.missed.delete(key);
    } else if (fresh || n.local) continue;
    else if (n.state === 'fetching') say(n.name + ' receives its layers');
    else if (was === undefined) say(n.name + ' was found at ' + n.address);
  }
  const status = cluster.states.get('status');
  now.set('status', t.status);
  if (status && status !== t.status) {
    if (t.status === 'ready') say('Ready to answer', 'good');
    else if (t.status === 'unavailable') say('No answers for now' + (t.reason ? ': ' + t.reason : ''), 'bad');
  }
  cluster.states = now;
}

async function followCluster() {
  let wait = 500;
  for (;;) {
    const controller = new AbortController();
    let alive = 0;
    try {
      const r = await fetch('/api/v1/events', { headers: headers(), signal: controller.signal });
      if (!r.ok) throw await refusal(r);
      alive = setInterval(() => performance.now() - cluster.at > 20000 && controller.abort(), 5000);
      cluster.at = performance.now();
      await readEvents(r, (data) => {
        wait = 500;
        onPicture(JSON.parse(data));
      });
    } catch (e) {
      if (e.status === 401) {
        showStatus('locked');
        await askForKey(e.message);
        wait = 100;
      }
    }
    clearInterval(alive);
    if (!$('key').open) showStatus('offline');
    await new Promise((done) => setTimeout(done, wait));
    wait = Math.min(wait * 1.6, 5000);
  }
}

// ---- the header

function showStatus(status, t) {
  const bad = t ? t.nodes.filter((n) => BAD.has(n.state)) : [];
  if (status === 'unavailable' && t && t.stages.length && !bad.length) status = 'loading'; // on its way back
  const loading = t && t.nodes.find((n) => n.transfer);
  const text = {
    ready: t && t.model,
    loading: loading ? loading.transfer.kind + ' ' + percent(loading.transfer) : 'loading',
    unavailable: 'cannot answer', offline: 'no connection', locked: 'API key needed',
  }[status];
  $('status').dataset.status = status;
  $('status-text').textContent = text || status;
  $('status').title = t && t.reason ? t.reason : text || status;
  $('tab-mark').hidden = bad.length === 0;
  const banner = $('banner');
  banner.hidden = status === 'ready' || status === 'locked';
  banner.classList.toggle('warn', status === 'loading');
  const lost = bad.map((n) => n.name + ' is ' + n.state + (n.reason ? ': ' + n.reason : '')).join('; ');
  banner.textContent = status === 'offline' ? 'The server does not answer. Trying again …'
    : status === 'unavailable' ? (lost || (t && t.reason) || 'The cluster cannot answer') + '. The server goes on by itself as soon as it can.'
    : status === 'loading' ? 'The model is being loaded' + (loading ? ': ' + loading.name + ' ' + percent(loading.transfer) : '') + ' …' : '';
  if (t) $('foot-model').textContent = t.model + (t.nodes.length > 1 ? ' on ' + plural(t.nodes.filter((n) => n.used).length, 'machine') : '');
}

const percent = (x) => (x.total ? Math.floor((100 * x.done) / x.total) + ' %' : '');

// ---- the view

function layersText(units) {
  return units.replace(/\bembed\b/g, 'embedding').replace(/(^|[,;] )(\d+)-(\d+)/g, '$1layers $2–$3').replace(/(^|[,;] )(\d+)(?=$|[,;])/g, '$1layer $2');
}

// Nodes as the token meets them, then the others; each with its place and colour.
function inOrder(t) {
  const place = (n) => cluster.places.get(n.address) ?? 1000 + (BAD.has(n.state) ? 0 : 1);
  return t.nodes.map((n) => ({ n, place: place(n) })).sort((a, b) => a.place - b.place);
}

function tile(name, big, more, extra) {
  return el('div', { class: 'tile' }, extra, el('div', { class: 'name' }, name), el('div', { class: 'big' + (big.length > 11 ? ' long' : ''), title: big }, big), el('div', { class: 'more', title: more }, more));
}

function sparkline(values) {
  if (values.length < 3 || !values.some((v) => v > 0)) return null;
  const top = Math.max(...values);
  const x = (i) => ((100 * i) / (values.length - 1)).toFixed(1);
  const y = (v) => (38 - (34 * v) / top).toFixed(1);
  const line = values.map((v, i) => (i ? 'L' : 'M') + x(i) + ' ' + y(v)).join('');
  const svg = icon([line + 'L100 40L0 40Z', line]);
  svg.setAttribute('viewBox', '0 0 100 40');
  svg.setAttribute('preserveAspectRatio', 'none');
  svg.firstChild.setAttribute('class', 'area');
  svg.lastChild.setAttribute('vector-effect', 'non-scaling-stroke');
  return svg;
}

function showTiles(t) {
  const bad = t.nodes.filter((n) => BAD.has(n.state)).length;
  const status = t.status === 'ready' ? 'Ready' : t.status === 'loading' || (t.stages.length && !bad) ? 'Loading' : 'No answers';
  const used = t.nodes.filter((n) => n.used).length;
  $('tiles').replaceChildren(
    tile('Status', status, bad ? plural(bad, 'machine') + ' missing' : t.status === 'ready' ? plural(used, 'machine') + ' at work' : plural(t.nodes.length, 'machine') + ' found'),
    tile('Tokens per second', t.status === 'ready' ? formatRate(t.tokens_per_second) : '–',
      t.running > 1 ? 'of ' + t.running + ' requests' : t.expected_tokens_per_second ? 'one stream: about ' + formatRate(t.expected_tokens_per_second) : '', sparkline(cluster.rates)),
    tile('Requests', String(t.running), t.waiting ? t.waiting + ' waiting' : 'none waiting'),
    tile('Model', t.model, [t.layers && plural(t.layers, 'layer'), t.model_bytes && formatBytes(t.model_bytes)].filter(Boolean).join(', ')),
    tile('Context', t.context ? t.context.toLocaleString('en') : '–', t.sequences ? plural(t.sequences, 'sequence') + ' at once' : ''));
}

function showTimes(t, colours) {
  const measured = t.stages.some((s) => s.compute_ms > 0);
  const parts = [];
  for (const s of t.stages) {
    const net = measured ? s.network_ms : s.expected_network_ms;
    const compute = measured ? s.compute_ms : s.expected_compute_ms;
    if (net > 0) parts.push({ net: true, ms: net, name: 'to ' + s.name });
    parts.push({ ms: compute, name: s.name, units: s.units, colour: colours.get(s.node) || 0, slowest: s.slowest });
  }
  if (measured && t.return_ms > 0) parts.push({ net: true, ms: t.return_ms, name: 'back' });
  const all = parts.reduce((sum, p) => sum + p.ms, 0);
  $('time-block').hidden = !t.stages.length;
  $('time-title').textContent = 'Where a token spends its time' + (all > 0 ? ': ' + formatMs(all) : '') + (measured ? '' : ' (expected)');
  const bar = $('time-bar');
  const text = (p) => (p.ms / all > 0.12 && !p.net ? p.name : '');
  const label = (p) => p.name + (p.units ? ' (' + layersText(p.units) + ')' : '') + ': ' + formatMs(p.ms);
  while (bar.childElementCount > parts.length) bar.lastChild.remove();
  parts.forEach((p, i) => {
    const d = bar.children[i] || bar.appendChild(el('div'));
    d.className = p.net ? 'net' : 'c' + p.colour;
    d.style.flexGrow = String(Math.max(all > 0 ? p.ms / all : 0, 0.002));
    d.style.flexBasis = '0';
    d.textContent = text(p);
    d.title = label(p);
  });
  bar.setAttribute('role', 'img');
  bar.setAttribute('aria-label', parts.map(label).join(', '));
  const network = parts.filter((p) => p.net).reduce((sum, p) => sum + p.ms, 0);
  $('time-legend').replaceChildren(
    ...parts.filter((p) => !p.net).map((p) => el('li', null, el('span', { class: 'swatch c' + p.colour }), el('span', null, el('b', null, p.name), ' ' + layersText(p.units) + ', ' + formatMs(p.ms)))),
    ...(network > 0 ? [el('li', null, el('span', { class: 'swatch net' }), el('span', null, el('b', null, 'network'), ' ' + formatMs(network)))] : []));
}

function meter(name, value, fraction, colour, below) {
  const fill = el('div', { class: colour });
  fill.style.width = Math.min(100, 100 * fraction).toFixed(2) + '%';
  fill.style.left = '0';
  return el('div', { class: 'meter' + (below ? ' moving' : '') }, el('div', { class: 'label' }, el('span', null, name), el('b', null, value)),
    el('div', { class: 'strip', role: 'progressbar', 'aria-label': name, 'aria-valuemin': '0', 'aria-valuemax': '100', 'aria-valuenow': String(Math.round(100 * fraction)) }, fill), below && el('div', { class: 'below' }, below));
}

// Which layers of the model it holds, as a strip.
function layerStrip(t, n, colour) {
  const strip = el('div', { class: 'strip', role: 'img', 'aria-label': layersText(n.layers) });
  for (const s of t.stages) {
    if (s.node !== n.id) continue;
    const d = el('div', { class: 'c' + colour });
    d.style.left = (100 * s.unit_begin) / (t.layers + 2) + '%';
    d.style.width = (100 * (s.unit_end - s.unit_begin)) / (t.layers + 2) + '%';
    strip.append(d);
  }
  return strip;
}

function nodeCard(t, n, place, colour) {
  const bad = BAD.has(n.state);
  const slow = t.stages.some((s) => s.node === n.id && s.slowest) && n.used;
  const card = el('article', { class: 'node ' + (bad ? 'lost' : slow ? 'slow' : ''), 'aria-label': n.name + ', ' + STATE_TEXT[n.state] });
  card.append(el('div', { class: 'top' },
    el('span', { class: 'step ' + (place < 1000 ? 'c' + colour : 'none'), 'aria-hidden': 'true' }, place < 1000 ? String(place + 1) : '–'),
    el('div', { class: 'who' }, el('b', { title: n.name }, n.name), el('span', null, n.local ? 'this machine, with the server' : n.address)),
    slow && !bad && el('span', { class: 'pill slowest', title: 'Its part of a token takes longest' }, 'slowest'),
    el('span', { class: 'pill ' + n.state }, n.state === 'idle' && !t.stages.length ? 'waiting' : STATE_TEXT[n.state] || n.state)));
  const held = bad && !n.used && cluster.held.get(n.address);
  if (bad) card.append(el('div', { class: 'why' }, el('p', null, n.reason || 'No reason was given.'), n.hint && el('p', null, n.hint)));
  if (held) card.append(el('div', { class: 'layers' }, 'It held ' + layersText(held) + '.'));
  else if (!n.used && (n.why || n.hint)) card.append(el('p', { class: 'hint' }, n.hint || n.why));
  if (n.used && n.layers) card.append(el('div', null, el('div', { class: 'layers' }, layersText(n.layers)), layerStrip(t, n, colour)));
  if (n.transfer) {
    const x = n.transfer;
    const amount = formatBytes(x.done) + ' of ' + formatBytes(x.total);
    const speed = x.rate > 0 ? ' at ' + formatBytes(x.rate) + '/s, ' + formatDuration((x.total - x.done) / x.rate) + ' left' : '';
    card.append(meter(x.kind === 'sending' ? 'Receiving its layers' : 'Loading its layers', percent(x), x.total ? x.done / x.total : 0, 'c' + colour, amount + speed));
  }
  const m = n.memory;
  const used = m ? m.used || m.planned : 0;
  if (used && !bad) {
    card.append(meter(m.used ? 'Memory' : 'Memory, planned', formatBytes(used) + ' of ' + formatBytes(m.total), used / m.total, 'c' + colour));
  }
  const facts = [];
  if (n.used && !bad) facts.push(['Compute / token', formatMs(n.compute_ms)]);
  if (!n.local && n.used && !bad) facts.push(['Network / token', formatMs(n.network_ms)]);
  if (!n.local && n.rtt_ms > 0 && !bad) facts.push(['Round trip', formatMs(n.rtt_ms)]);
  if (!n.local && n.bandwidth > 0 && !bad) facts.push(['Link', formatBytes(n.bandwidth) + '/s']);
  if (!n.local) facts.push(['Last seen', formatAgo(n.last_seen_ms)]);
  if (n.threads) facts.push(['Threads', n.threads + (n.isa ? ' × ' + n.isa.toUpperCase() : '')]);
  if (facts.length) card.append(el('div', { class: 'facts' }, ...facts.map(([k, v]) => el('div', null, el('div', { class: 'k' }, k), el('div', { class: 'v', title: v }, v)))));
  return card;
}

function showCluster() {
  const t = cluster.picture;
  if (!t) return;
  const nodes = inOrder(t);
  const colours = new Map(nodes.filter((x) => x.place < 1000).map((x) => [x.n.id, x.place % HUES]));
  showTiles(t);
  showTimes(t, colours);
  // the whole list is small; what has the keyboard's focus has no place inside it
  $('nodes').replaceChildren(...(nodes.length ? nodes.map((x) => nodeCard(t, x.n, x.place, x.place % HUES)) : [el('p', { class: 'hint' }, 'Looking for machines …')]));
  $('events-block').hidden = !cluster.events.length;
  $('events').replaceChildren(...cluster.events.slice(0, 12).map((e) => el('li', null, el('time', null, e.at.toLocaleTimeString('en-GB')), el('span', { class: e.how || '' }, e.text))));
}
