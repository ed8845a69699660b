#!/bin/sh
# The client libraries that tests/integration/clients.sh speaks to the server with, of fixed versions, into build/clients.
# Needs python3-venv, pip, npm and a package index; what cannot be had is left out, and the test says so.
cd "$(dirname "$0")/../.." || exit 1
mkdir -p build/clients
[ -x build/clients/venv/bin/python ] || python3 -m venv build/clients/venv || exit 1
build/clients/venv/bin/pip install --quiet --disable-pip-version-check openai==3.54.0 anthropic==2.12.0 || exit 1
cp tests/clients/openai.mjs build/clients/
npm install --prefix build/clients --silent --no-fund --no-audit openai@6.49.0
