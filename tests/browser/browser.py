"""A headless Chromium, driven over its debugging pipe: no driver, no packages. One page per Browser.page()."""
import base64, json, os, select, shutil, subprocess, tempfile, time

SLOW = float(os.environ.get("IT_SLOW", "1"))
FLAGS = ("--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
         "--disable-component-update --disable-sync --disable-dev-shm-usage --hide-scrollbars --remote-debugging-pipe").split()


def program():
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if shutil.which(name):
            return shutil.which(name)
    return None


class Browser:
    def __init__(self):
        self.profile = tempfile.mkdtemp(prefix="cake-browser-")
        to_r, to_w = os.pipe()
        from_r, from_w = os.pipe()

        def place():  # the pipe's ends are descriptors 3 and 4 of the browser
            a, b = os.dup(to_r), os.dup(from_w)
            os.dup2(a, 3)
            os.dup2(b, 4)

        env = {**os.environ, "HOME": self.profile, "XDG_CONFIG_HOME": self.profile, "XDG_CACHE_HOME": self.profile}
        self.process = subprocess.Popen([program(), *FLAGS, f"--user-data-dir={self.profile}", "about:blank"], preexec_fn=place,
                                        close_fds=False, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env)
        os.close(to_r)
        os.close(from_w)
        self.to, self.at, self.rest, self.n = to_w, from_r, b"", 0
        self.pages = {}

    def close(self):
        try:
            self.call("Browser.close")
            self.process.wait(10)
        except Exception:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.profile, ignore_errors=True)

    def receive(self, seconds):
        """One message, or None."""
        end = time.time() + seconds
        while b"\0" not in self.rest:
            left = end - time.time()
            if left <= 0 or not select.select([self.at], [], [], left)[0]:
                return None
            data = os.read(self.at, 1 << 20)
            if not data:
                raise RuntimeError("the browser is gone")
            self.rest += data
        message, self.rest = self.rest.split(b"\0", 1)
        m = json.loads(message)
        page = self.pages.get(m.get("sessionId"))
        if page and "method" in m:
            page.on_event(m["method"], m["params"])
        return m

    def call(self, method, session=None, **params):
        self.n += 1
        number = self.n
        o = {"id": number, "method": method, "params": params}
        if session:
            o["sessionId"] = session
        os.write(self.to, json.dumps(o).encode() + b"\0")
        end = time.time() + 30 * SLOW
        while time.time() < end:
            m = self.receive(1)
            if m and m.get("id") == number:
                if "error" in m:
                    raise RuntimeError(f"{method}: {m['error']['message']}")
                return m["result"]
        raise RuntimeError(f"{method}: no answer")

    def page(self, url, width=1200, height=800, dark=False):
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        return Page(self, target, session, url, width, height, dark)


class Page:
    """What went wrong on it (console errors, exceptions, violations of the policy) gathers in `complaints`."""

    def __init__(self, browser, target, session, url, width, height, dark):
        self.b, self.target, self.session, self.complaints, self.loaded = browser, target, session, [], False
        browser.pages[session] = self
        for domain in ("Page", "Runtime", "Log"):
            self.call(domain + ".enable")
        self.size(width, height)
        self.call("Emulation.setFocusEmulationEnabled", enabled=True)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])
        self.goto(url)

    def call(self, method, **params):
        return self.b.call(method, self.session, **params)

    def size(self, width, height):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)

    def on_event(self, method, p):
        if method == "Page.loadEventFired":
            self.loaded = True
        elif method == "Runtime.exceptionThrown":
            d = p["exceptionDetails"]
            self.complaints.append(d.get("exception", {}).get("description", d["text"]))
        elif method == "Runtime.consoleAPICalled" and p["type"] in ("error", "warning", "assert"):
            self.complaints.append("console: " + " ".join(str(a.get("value", a.get("description"))) for a in p["args"]))
        elif method == "Log.entryAdded" and p["entry"]["level"] in ("error", "warning"):
            self.complaints.append(f"{p['entry']['source']}: {p['entry']['text']} {p['entry'].get('url', '')}")

    def goto(self, url):
        self.loaded = False
        self.call("Page.navigate", url=url)
        end = time.time() + 20 * SLOW
        while not self.loaded and time.time() < end:
            self.b.receive(0.2)

    def js(self, expression):
        r = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in r:
            raise RuntimeError(r["exceptionDetails"].get("exception", {}).get("description", "exception") + " in " + expression)
        return r["result"].get("value")

    def wait(self, expression, seconds=10):
        """Seconds until it is true; None: it never was."""
        start = time.time()
        while time.time() - start < seconds * SLOW:
            if self.js(expression):
                return time.time() - start
            time.sleep(0.03)
        return None

    def type(self, text):
        self.call("Input.insertText", text=text)

    def key(self, key, code=0, **more):
        text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **({"text": text} if text and kind == "keyDown" else {}), **more)

    def click(self, selector):
        box = self.js(f"(() => {{ const e = document.querySelector({json.dumps(selector)}); e.scrollIntoView({{block: 'nearest'}});"
                      " const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })()")
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)

    def shot(self, path):
        with open(path, "wb") as f:
            f.write(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def close(self):
        self.b.call("Target.closeTarget", targetId=self.target)
