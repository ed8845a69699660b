#!/bin/bash
# cake-master chat: with the model here and with a real server, in a pipe; then on a terminal against a scripted server (chat.py).
. "${0%/*}/lib.sh"
it_need curl python3 openssl
MODEL=$REPO/tests/models/babyllama105-mlx-4bit-g64
printf '{%% for m in messages %%}{{ m.content }}{%% if not loop.last %%} {%% endif %%}{%% endfor %%}' >"$IT/chat.jinja"
HERE=(--model "$MODEL" --chat-template "$IT/chat.jinja" --discovery-timeout 0 --threads 1 --temperature 0 -n 20 -q)
chat() { on 0 timeout $((60 * IT_SLOW)) "$BIN/cake-master" chat "$@" 2>"$IT/err"; }
run() { on 0 "$BIN/cake-master" run --model "$MODEL" --discovery-timeout 0 --threads 1 --temperature 0 -n 20 -q --raw "$1" 2>/dev/null; }

# the model here
FIRST=$(echo "Once upon a time" | chat "${HERE[@]}")
same "one line in a pipe gets the reply of run" "$(run "Once upon a time" | sed 's/^ *//')" "$(sed 's/^ *//' <<<"$FIRST")"
printf 'Once upon a time\n/stats\nOne day\n/stats\n/workers\n' | chat "${HERE[@]}" >"$IT/two"
same "it ends well" 0 $?
PROMPTS=$(awk '/^ *prompt / {print $2}' "$IT/err" | tr '\n' ' ')
check "the second turn sends the first along ($PROMPTS)" test "$(cut -d' ' -f2 <<<"$PROMPTS")" -gt $(($(cut -d' ' -f1 <<<"$PROMPTS") + 20))
check "/workers shows this machine" grep -qE ' ready ' "$IT/err"
printf 'Hello\n/nonsense\nnever reached\n' | chat "${HERE[@]}" >"$IT/out"
same "a failure ends a pipe" 2 $?

# a server
printf 'a-key-of-this-test\n' >"$IT/keys"
spawn 0 main "$BIN/cake-master" serve --model "$MODEL" --api 127.0.0.1:0 --discovery-timeout 0 --threads 1 \
    --chat-template "$IT/chat.jinja" --api-key-file "$IT/keys"
check "a server" wait_log main 20 'Serving .* on http' || exit 1
URL=$(grep -oE 'http://[0-9.:]+' "$IT/main.log" | tail -1)
same "the same reply from it" "$FIRST" "$(echo "Once upon a time" | chat --server "$URL" --api-key-file "$IT/keys" --temperature 0 -n 20)"
echo hi | chat --server "$URL" >"$IT/out"
same "not without the key" 77 $?
echo hi | chat --server http://127.0.0.1:1 >"$IT/out"
same "nobody there" 69 $?
echo hi | chat --server ftp://127.0.0.1 >"$IT/out"
same "no address of a server" 2 $?
python3 -c 'print("many words " * 2000)' | chat --server "$URL" --api-key-file "$IT/keys" >"$IT/out"
same "a full context is told" 1 $?
check "with the numbers" grep -q "maximum context length is" "$IT/err"

# a terminal
IT_SLOW=$IT_SLOW timeout $((120 * IT_SLOW)) python3 "$REPO/tests/integration/chat.py" "$BIN/cake-master" "$IT/host0/home" >"$IT/terminal"
rc=$?
cat "$IT/terminal"
[[ $rc == 0 ]] || grep -q '^not ok' "$IT/terminal" || not_ok "chat.py ended with $rc"
grep -q '^not ok' "$IT/terminal" && IT_FAILED=1
:
