#!/usr/bin/env python3
"""The web page in a real browser against a real server over two workers. Prints "ok - NAME" or "not ok - NAME: why".

    page.py URL KEYED_URL KEY W2_PID W3_PID COMMAND...

KEYED_URL is a server that asks for KEY; COMMAND starts worker w3 again. With SHOTS=FOLDER it leaves screenshots there."""
import json, os, signal, subprocess, sys, time
from browser import Browser, SLOW

URL, KEYED, KEY, W2, W3 = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
RESTART = sys.argv[6:]
SHOTS = os.environ.get("SHOTS")
failed = 0


def check(name, ok, why=""):
    global failed
    failed += not ok
    print(f"ok - {name}" if ok else f"not ok - {name}: {why!r}"[:700], flush=True)


def shot(page, name):
    if SHOTS:
        time.sleep(0.4)
        page.shot(f"{SHOTS}/{name}.png")


def text(selector):
    return f"(document.querySelector({json.dumps(selector)}) || {{}}).textContent || ''"


CARD = "[...document.querySelectorAll('.node')].find((n) => n.querySelector('b').textContent === %s)"


def card(name):
    return CARD % json.dumps(name)


b = Browser()
p = b.page(URL)
check("it loads and follows the cluster", p.wait("document.getElementById('status').dataset.status === 'ready'") is not None, p.js("document.body.innerText"))
check("nobody is asked for a key", not p.js("$('key').open"))

# ---- a message
check("the cursor is in the message", p.js("document.activeElement.id") == "prompt")
p.js("""window.sizes = []; new MutationObserver(() => {
    const t = document.querySelector('.assistant .text'); if (t && t.textContent.length !== sizes[sizes.length - 1]) sizes.push(t.textContent.length);
}).observe($('log'), {subtree: true, childList: true, characterData: true})""")
p.type("Once upon a time")
p.key("Enter", 13)
done = "!chat.running && chat.current.messages.length % 2 === 0 && chat.current.messages.length > 0"
check("a reply comes", p.wait(done, 20) is not None and len(p.js(text(".assistant .text"))) > 40, p.js("$('log').innerText"))
check("in more than one piece", len(p.js("sizes")) > 2, p.js("sizes"))
check("with its tokens and their rate", all(w in p.js(text(".assistant .meta")) for w in ("tokens", "tokens/s", "to begin")), p.js(text(".assistant .meta")))
p.js("location.reload()")
time.sleep(0.3)
check("a reload keeps it", p.wait("document.querySelectorAll('.assistant .text').length === 1 && document.querySelector('.user').textContent.endsWith('Once upon a time')") is not None)

# ---- stop: a worker that stands still makes the reply wait
p.click("#new-chat")
os.kill(W2, signal.SIGSTOP)
p.type("One day")
p.key("Enter", 13)
p.wait("!$('stop').hidden")
p.click("#stop")
check("stop ends the reply", p.wait("!chat.running && document.querySelector('.meta').textContent.includes('stopped')", 3) is not None, p.js("$('log').innerText"))
os.kill(W2, signal.SIGCONT)
check("and the server forgets it", p.wait("cluster.picture && cluster.picture.running === 0 && cluster.picture.status === 'ready'", 15) is not None, p.js("JSON.stringify(cluster.picture)"))
p.type("One day")
p.key("Enter", 13)
check("the next message is answered", p.wait("!chat.running && chat.current.messages.length === 4 && chat.current.messages[3].content.length > 10", 20) is not None, p.js("JSON.stringify(chat.current)"))

# ---- text of a model is never HTML
p.js("""window.show = (t) => { const d = document.createElement('div'); const v = new Markdown.View(d);
    for (let i = 1; i <= t.length; i++) v.update(t.slice(0, i)); window.shown = d; return d.innerHTML; };
    window.once = (t) => { const d = document.createElement('div'); new Markdown.View(d).update(t); return d.innerHTML; }""")
evil = ['<img src=x onerror="document.title=1">', '[x](javascript:alert(1))', '![x](http://e/x.png "a")', '<script>document.title=1</script>',
        '`<b>` **<i>x</i>** ~~<u>~~', '[a](data:text/html,x) <javascript:alert(1)> [b]( java\tscript:1 )', '```<b>\n</code><script>x</script>\n```', '|<a>|<b>|\n|-|-|\n|<i>|[x](vbscript:1)|']
for t in evil:
    html = p.js(f"show({json.dumps(t)})")
    bad = p.js("[...shown.querySelectorAll('*')].filter((e) => !/^(P|STRONG|EM|DEL|CODE|PRE|DIV|SPAN|BUTTON|A|TABLE|THEAD|TBODY|TR|TH|TD)$/.test(e.tagName)"
               " || [...e.attributes].some((a) => a.name.startsWith('on') || (a.name === 'href' && !/^(https?:|mailto:)/.test(a.value)))).length")
    check(f"harmless: {t[:30]!r}", bad == 0, html)
check("and nothing of it ran", p.js("document.title") == "Cake")
samples = {
    "# A\n\nb *c* **d** `e`\n- one\n- two\n  1. three\n\nlast": "<h1>A</h1><p>b <em>c</em> <strong>d</strong> <code>e</code></p><ul><li>one</li><li>two<ol><li>three</li></ol></li></ul><p>last</p>",
    "snake_case_name and 2*3*4 and a * b": "<p>snake_case_name and 2<em>3</em>4 and a * b</p>",
    "see https://a.b/c_(d). ok": '<p>see <a href="https://a.b/c_(d)" target="_blank" rel="noopener noreferrer nofollow">https://a.b/c_(d)</a>. ok</p>',
    "> q\n> r\n\n---\n3. x\n4. y": '<blockquote class="text"><p>q\nr</p></blockquote><hr><ol start="3"><li>x</li><li>y</li></ol>',
    "one  \ntwo\\\nthree": "<p>one<br>two<br>three</p>",
}
for t, want in samples.items():
    check(f"Markdown: {t[:24]!r}", p.js(f"once({json.dumps(t)})") == want, p.js(f"once({json.dumps(t)})"))
rich = "# Title\n\nText with **bold\nand more**.\n\n- a\n- b\n\n  c\n\n```py\ndef f():\n\n    return 1\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n> quote\n\n1. x\n\n2. y\n\nend"
check("piece by piece it is the same as at once", p.js(f"show({json.dumps(rich)})") == p.js(f"once({json.dumps(rich)})"), (p.js(f"show({json.dumps(rich)})"), p.js(f"once({json.dumps(rich)})")))

# ---- settings
p.click("#settings-open")
p.js("$('set-system').value = 'Be kind.'; $('set-temperature').value = '0.3'; $('set-top_p').value = '7'")
p.click("#settings .main")
check("a setting out of range is not taken", p.js("$('settings').open && !$('set-top_p').checkValidity()"))
p.js("$('set-top_p').value = ''")
p.click("#settings .main")
p.wait("store.get('settings')", 2)
check("settings go with the next request", p.js("JSON.stringify([settingsBody(), (store.get('settings') || {}).system])") == '[{"temperature":0.3},"Be kind."]', p.js("JSON.stringify([settingsBody(), store.get('settings')])"))
p.click("#settings-open")
p.click("#set-reset")
p.click("#settings .main")
time.sleep(0.1)
check("and can be reset", p.js("JSON.stringify(settingsBody())") == "{}", p.js("JSON.stringify(settingsBody())"))

# ---- the cluster
p.js("$('tab-chat').focus()")
p.key("ArrowRight", 39)
check("the arrow key changes the view", p.js("!$('view-cluster').hidden && document.activeElement.id === 'tab-cluster'"))
check("both workers, in the order of the pipeline", p.wait("JSON.stringify([...document.querySelectorAll('.who b')].map((x) => x.textContent)) === '[\"node1\",\"w2\",\"w3\"]'") is not None, p.js("$('nodes').innerText"))
w2 = p.js(card("w2") + ".innerText")
check("layers, memory, times, link of a worker", all(x in w2 for x in ("ready", "layers 0–1", "Memory", "Compute / token", "Network / token", "Round trip", "Link", "Last seen", "now")), w2)
check("one is marked as the slowest", p.js("document.querySelectorAll('.pill.slowest').length") == 1)
check("where a token spends its time", p.js("document.querySelectorAll('#time-bar .net').length >= 2 && /[0-9] ms/.test($('time-title').textContent)"), p.js("$('time-block').innerText"))
shot(p, "cluster-light")
os.kill(W3, signal.SIGKILL)
took = p.wait(card("w3") + ".querySelector('.pill.lost') && " + card("w3") + ".querySelector('.why').textContent.length > 20", 10)
check(f"a worker that dies is shown with the reason ({took and round(took, 2)} s; aim 2)", took is not None, p.js("$('nodes').innerText"))
check("and what to do", "cake-worker" in p.js(card("w3") + ".querySelector('.why').textContent"), p.js(card("w3") + ".innerText"))
check("the banner says it too", p.wait("!$('banner').hidden && $('banner').textContent.includes('w3')", 5) is not None, p.js("$('banner').textContent"))
shot(p, "cluster-dead-light")
worker = subprocess.Popen(RESTART, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
check("its layers are on their way", p.wait("/ of 2[.]/.test((document.querySelector('.moving .below') || {}).textContent)", 30) is not None, p.js("$('nodes').innerText"))
shot(p, "cluster-transfer-light")
check("it comes back by itself", p.wait("cluster.picture.status === 'ready' && " + card("w3") + ".querySelector('.pill.ready') && $('banner').hidden", 60) is not None, p.js("$('nodes').innerText"))
check("and the list says what happened", all(w in p.js("$('events').textContent") for w in ("w3 is lost", "w3 is back")), p.js("$('events').textContent"))
check("no complaints of the browser", p.complaints == [], p.complaints)

# ---- a phone
p.size(390, 844)
for view in ("cluster", "chat"):
    p.js(f"showView('{view}')")
    time.sleep(0.2)
    check(f"{view} fits a phone", p.js("document.documentElement.scrollWidth <= 390 && [...document.querySelectorAll('main *')].filter((e) => !e.closest('#drawer, .scroll-x, pre, .unseen, .time-bar')"
                                      " && e.getBoundingClientRect().right > 391).length") is not True and p.js("document.documentElement.scrollWidth") <= 390, p.js("document.documentElement.scrollWidth"))
p.close()

# ---- a key
k = b.page(KEYED)
check("a server with a key asks for it", k.wait("$('key').open") is not None, k.complaints)
k.type("not-the-key")
k.key("Enter", 13)
check("a wrong one is refused", k.wait("$('key').open && $('key-why').textContent.includes('wrong')", 5) is not None, k.js("$('key-why').textContent"))
k.js("$('key-value').focus()")
k.type(KEY)
k.key("Enter", 13)
check("the right one lets in", k.wait("$('status').dataset.status === 'ready' && !$('key').open", 8) is not None, k.js("$('status').dataset.status"))
check("and is not kept without being told so", k.js("localStorage.getItem('cake.key') === null && sessionStorage.getItem('cake.key') === " + json.dumps(KEY)))
check("only refused requests were complained about", all("401" in c for c in k.complaints), k.complaints)
if SHOTS:
    import shots
    shots.take(b, URL, SHOTS)
b.close()
worker.kill()
sys.exit(failed > 0)
