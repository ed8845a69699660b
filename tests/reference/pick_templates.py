#!/usr/bin/env python3
"""Copy a few real chat templates with a permissive licence, and their golden renderings by Python
jinja2, from ../shared/data into tests/vectors/templates/real.json.
Run: python3 tests/reference/pick_templates.py ../shared/data"""
import json
import os
import sys

PICK = {  # template in the golden file: licence
    "llama.cpp/Qwen-Qwen2.5-7B-Instruct.jinja": "Apache-2.0 (Qwen)",
    "../tokenizers/qwen3/chat_template.jinja": "Apache-2.0 (Qwen)",
    "llama.cpp/HuggingFaceTB-SmolLM3-3B.jinja": "Apache-2.0 (Hugging Face)",
    "llama.cpp/ibm-granite-granite-3.3-2B-Instruct.jinja": "Apache-2.0 (IBM)",
    "llama.cpp/microsoft-Phi-3.5-mini-instruct.jinja": "MIT (Microsoft)",
}
CASES = {"system_user", "think_off", "think_history", "tools_system", "tool_roundtrip"}


def main():
    data = sys.argv[1]
    golden = json.load(open(os.path.join(data, "templates", "jinja2-golden.json")))
    templates = {}
    for name, licence in PICK.items():
        source = open(os.path.join(data, "templates", name), newline="").read()
        templates[name] = {"licence": licence, "source": source}
    cases = [c for c in golden["cases"] if c["template"] in PICK and c["case"] in CASES]
    here = os.path.dirname(os.path.abspath(__file__))
    with open(os.path.join(here, "..", "vectors", "templates", "real.json"), "w") as f:
        f.write('{"note": "picked by tests/reference/pick_templates.py; see README.md",\n"templates": {\n')
        f.write(",\n".join("%s: %s" % (json.dumps(k), json.dumps(v)) for k, v in templates.items()))
        f.write('},\n"cases": [\n')
        f.write(",\n".join(json.dumps(c) for c in cases))
        f.write("\n]}\n")
    print(len(cases), "cases")


main()
