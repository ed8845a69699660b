#!/bin/bash
# Quality against bits: a model quantized by every preset and MLX mode, scored beside the original over a text.
#   quality.sh [MODEL [TEXT [CALIBRATION-TEXT]]]     a Markdown table on stdout
# Default: the 256-wide story model of ../shared (rows of K-quant blocks), 20 kB of TinyStories' validation text; importance
# is taken from another text. One line per checkpoint: bits per weight, perplexity against the original's, mean KL divergence
# in millinats, how often both find the same token likeliest; the last two columns are with an importance matrix.
set -eu
here=$(dirname "$0")/../..
bin=${BIN:-$here/build}
model=${1:-$here/../shared/data/models/babyllama105-pad256-hf-f16}
corpora=$here/../shared/data/corpora
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
text=${2:-$tmp/text.txt}
calibration=${3:-$tmp/calibration.txt}
[ -n "${2:-}" ] || head -c 20000 "$corpora/tinystories_val.txt" >"$text"
[ -n "${3:-}" ] || head -c 100000 "$corpora/tinystories_lowercase_4MB.txt" >"$calibration"
cake() { "$bin/cake-master" "$@" -q; }
alone="--discovery-timeout 0"
cake calibrate --model "$model" $alone --text "$calibration" --out "$tmp/imatrix.dat"

score() { cake perplexity --model "$1" --reference "$model" $alone --text "$text" --json; }
field() { python3 -c "import json,sys; print(json.load(sys.stdin)$1)"; }
# row NAME ARG...: quantize, look, score, again with importance where the encoder can use it
row() {
    local name=$1 bits
    shift
    rm -rf "$tmp/m" "$tmp/i"
    cake quantize --model "$model" --out "$tmp/m" "$@" >/dev/null
    bits=$(cake inspect "$tmp/m" --json | field '["bits_per_weight"]')
    score "$tmp/m" >"$tmp/plain"
    : >"$tmp/weighed"
    case " $* " in
    *" --preset "* | *" --type "*)
        cake quantize --model "$model" --out "$tmp/i" "$@" --imatrix "$tmp/imatrix.dat" >/dev/null
        score "$tmp/i" >"$tmp/weighed" ;;
    esac
    python3 - "$name" "$bits" "$tmp/plain" "$tmp/weighed" <<'EOF'
import json, sys
name, bits, plain, weighed = sys.argv[1:]
p = json.load(open(plain))
w = open(weighed).read()
row = [name, f"{float(bits):.2f}", f"{100 * (p['perplexity'] / p['reference_perplexity'] - 1):+.2f} %",
       f"{1000 * p['kl_divergence']:.2f}", f"{100 * p['top1_agreement']:.1f} %"]
if w:
    w = json.loads(w)
    row += [f"{1000 * w['kl_divergence']:.2f}", f"{100 * w['top1_agreement']:.1f} %"]
else:
    row += ["", ""]
print("| " + " | ".join(row) + " |", flush=True)
EOF
}
echo "| | bits per weight | perplexity | KL, mnat | same token | KL weighed | same token |"
echo "| --- | --- | --- | --- | --- | --- | --- |"
for p in $(cake quantize --list-presets | awk '/^q/ {print $1}'); do row "$p" --preset "$p"; done
for b in 2 3 4 5 6 8; do row "MLX $b bit" --mlx-bits $b; done
for m in mxfp4 nvfp4 mxfp8; do row "MLX $m" --mlx-mode $m; done
for r in mixed_2_6 mixed_3_4 mixed_3_6 mixed_4_6; do row "MLX $r" --recipe $r; done
