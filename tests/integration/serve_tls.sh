#!/bin/bash
# cake-master serve over TLS: answers and streams as without, what is no TLS or an old one is turned away, bad files are named.
. "${0%/*}/lib.sh"
it_need curl openssl python3
MODEL=$REPO/tests/models/stories260K-hf
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1 \
    -keyout "$IT/key.pem" -out "$IT/cert.pem" 2>/dev/null || { skip "serve_tls: openssl cannot make a certificate"; exit 0; }
spawn 0 main "$BIN/cake-master" serve --model "$MODEL" --api 127.0.0.1:0 --discovery-timeout 0 --threads 1 --tls-cert "$IT/cert.pem" --tls-key "$IT/key.pem"
check "the server starts" wait_log main 20 'Serving .* on https' || exit 1
URL=$(grep -oE 'https://[0-9.:]+' "$IT/main.log" | tail -1)
ask() { curl -s -m 60 --cacert "$IT/cert.pem" "$@"; }
Q='{"prompt":"Once upon a time","max_tokens":40,"temperature":0}'
same "/health" 200 "$(ask -o /dev/null -w '%{http_code}' "$URL/health")"
TEXT=$(ask -d "$Q" "$URL/v1/completions" | python3 -c 'import json,sys; print(json.load(sys.stdin)["choices"][0]["text"])')
check "an answer" test -n "$TEXT"
stream() { ask -N "$@" -d "${Q/\}/,\"stream\":true\}}" "$URL/v1/completions" | python3 -c 'import json,sys
print("".join(json.loads(l[6:])["choices"][0]["text"] for l in sys.stdin if l.startswith("data: {")))'; }
same "the same as a stream" "$TEXT" "$(stream)"
same "and over HTTP/1.0, which ends with the connection" "$TEXT" "$(stream --http1.0)"
same "two requests on one connection" "200 200 1" "$(ask -o /dev/null -w '%{http_code} ' -o /dev/null "$URL/health" "$URL/v1/models" -w '%{http_code} ')$(ask -v "$URL/health" "$URL/v1/models" 2>&1 | grep -c 'SSL connection using')"
check "a certificate that is not trusted is the client's to refuse" fails curl -s -m 20 -o /dev/null "$URL/health"
check "TLS 1.1 is turned away" fails ask --tls-max 1.1 -o /dev/null "$URL/health"
check "plain HTTP is turned away" fails curl -s -m 20 -o /dev/null "http${URL#https}/health"
python3 - "$URL" <<'EOF2'
import os, socket, sys
host, port = sys.argv[1][8:].split(":")
for i in range(30): # noise, and handshakes that break off
    s = socket.create_connection((host, int(port)))
    s.sendall(os.urandom(50) if i % 2 else b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + os.urandom(i))
    s.close()
EOF2
same "it still serves" 200 "$(ask -o /dev/null -w '%{http_code}' "$URL/health")"
connections() { [[ $(ask "$URL/metrics" | awk '$1 == "cake_http_connections" {print $2}') == 1 ]]; }
check "nothing is left open" wait_until 10 connections
check "it stops on request" stop main TERM 10
check "cleanly" fails logged main 'ERROR|WARNING: Thread'
"$BIN/cake-master" serve --model "$MODEL" --api 127.0.0.1:0 --tls-cert "$IT/cert.pem" >"$IT/out" 2>"$IT/err"
same "a certificate without a key" 2 $?
echo nonsense >"$IT/bad.pem"
"$BIN/cake-master" serve --model "$MODEL" --api 127.0.0.1:0 --tls-cert "$IT/cert.pem" --tls-key "$IT/bad.pem" --discovery-timeout 0 >"$IT/out" 2>"$IT/err"
same "a key that is none" "78 1" "$? $(grep -c bad.pem "$IT/err")"
if command -v cake-worker >/dev/null || [[ -x $BIN/cake-worker ]]; then
    check "cake-worker has no TLS of this kind" fails sh -c "ldd '$BIN/cake-worker' | grep -q libssl"
fi
exit $IT_FAILED
