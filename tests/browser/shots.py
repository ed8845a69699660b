"""Screenshots for people to look at, of a page with something on it. Taken by page.py when SHOTS names a folder."""
import json, time

REPLY = """Rayleigh scattering: **short waves scatter more** than long ones, by the *fourth* power of their frequency.

## In numbers

| colour | wavelength | scatters |
|---|---|---|
| blue | 450 nm | 4.4 |
| red | 650 nm | 1.0 |

1. Sunlight enters the air.
2. Blue is sent in all directions,
   - so it comes from everywhere,
   - and the rest goes straight on.

```python
def scattering(wavelength_nm, reference=650):
    \"\"\"How much more than red light.\"\"\"
    return (reference / wavelength_nm) ** 4

print(f"{scattering(450):.1f}")  # 4.4
```

> At sunset the path is long, and little blue is left.

See <https://en.wikipedia.org/wiki/Rayleigh_scattering> for `4.4` and more."""

TALK = [{"id": "a", "messages": [
    {"role": "user", "content": "Why is the sky blue?"},
    {"role": "assistant", "content": REPLY, "thinking": "The person asks about the sky.\nBest to begin with scattering.", "thought_s": 3.2,
     "stats": {"tokens": 214, "rate": 41.7, "first_s": 0.38, "prompt": 1207, "cached": 1192}},
    {"role": "user", "content": "And on Mars?\nBriefly, please."},
    {"role": "assistant", "content": "There the dust", "error": "worker 'attic-laptop' (stage 2) is lost: the connection broke. Start it again, or run without it."}]},
    {"id": "b", "messages": [{"role": "user", "content": "A poem about layers of cake and of networks"}, {"role": "assistant", "content": "Three"}]},
    {"id": "c", "messages": [{"role": "user", "content": "Translate this letter"}, {"role": "assistant", "content": "Done"}]}]


def take(browser, url, folder):
    for dark in (False, True):
        name = "dark" if dark else "light"
        for kind, width, height in (("desk", 1200, 860), ("phone", 390, 844)):
            p = browser.page(url, width, height, dark)
            p.js(f"localStorage.clear(); localStorage.setItem('cake.conversations', {json.dumps(json.dumps(TALK))}); location.reload()")
            time.sleep(1.5)
            p.shot(f"{folder}/chat-{kind}-{name}.png")
            p.js("$('scroller').scrollTop = 0")
            time.sleep(0.2)
            p.shot(f"{folder}/chat-{kind}-{name}-top.png")
            p.js("openConversation(newConversation()); $('prompt').value = 'Tell me a story'; send($('prompt').value)")
            p.wait("!chat.running", 20)
            p.js("showView('cluster')")
            time.sleep(1.5)
            p.shot(f"{folder}/cluster-{kind}-{name}.png")
            p.js("showView('chat'); openSettings()")
            time.sleep(0.3)
            p.shot(f"{folder}/settings-{kind}-{name}.png")
            p.js("$('settings').close(); $('drawer').classList.add('open')")
            time.sleep(0.4)
            if kind == "phone":
                p.shot(f"{folder}/drawer-{kind}-{name}.png")
            p.close()
