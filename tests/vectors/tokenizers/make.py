#!/usr/bin/env python3
"""Make the small tokenizers and goldens of this folder with the Hugging Face `tokenizers` package.

    pip install tokenizers==0.23.3
    make.py CORPUS [NAME=DIR/tokenizer.json ...]
                           writes NAME.json (the tokenizer) and NAME.golden (one JSON object a line)

and goldens of the tokenizers named after it. CORPUS is any English text (tiny Shakespeare was used); the merges are trained on it. Each golden line:
t the text, i its ids, s ids with the template, p ids with special tokens as plain text, d the decoded
ids of s, k the same without special tokens."""
import json, random, sys
from tokenizers import Tokenizer, AddedToken, Regex, models, trainers
from tokenizers import normalizers as N, pre_tokenizers as P, decoders as D, processors as X

QWEN2 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = QWEN2.replace(r"\p{N}|", r"\p{N}{1,3}|", 1)
O200K = "|".join([
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n/]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+"])
TEKKEN = "|".join([
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
    r"\p{N}", r" ?[^\s\p{L}\p{N}]+[\r\n/]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+"])
SPM = D.Sequence([D.Replace("▁", " "), D.ByteFallback(), D.Fuse(), D.Strip(" ", 1, 0)])
BYTES = ["<0x%02X>" % b for b in range(256)]


def split(regex, behavior="isolated", invert=False):
    return P.Split(Regex(regex), behavior, invert)


def bl(prefix=False, regex=False):
    return P.ByteLevel(add_prefix_space=prefix, use_regex=regex)


def make(name, corpus):
    norm = pre = post = dec = None
    model, special, alphabet, added = {}, ["<unk>", "<s>", "</s>"], [], []
    byte_level = True
    if name == "qwen2":
        norm, pre = N.NFC(), P.Sequence([split(QWEN2), bl()])
        post, special = X.ByteLevel(trim_offsets=False), ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
        added = [AddedToken("<tool_call>", special=False, normalized=False)]
    elif name == "llama3":
        model = dict(ignore_merges=True)
        pre = P.Sequence([split(LLAMA3), bl()])
        post = X.Sequence([X.ByteLevel(), X.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])])
    elif name == "gpt2":
        pre = bl(True, True)
        added = [AddedToken("magic", single_word=True, normalized=True), AddedToken(" wide ", normalized=False),
                 AddedToken("[L]", lstrip=True, normalized=False), AddedToken("[R]", rstrip=True, normalized=False)]
    elif name == "o200k":
        pre = P.Sequence([split(O200K), bl()])
    elif name == "tekken":
        pre = P.Sequence([split(TEKKEN), bl()])
    elif name == "falcon":
        pre = P.Sequence([P.Punctuation("contiguous"), bl(False, True), P.Digits(False), split("[0-9][0-9][0-9]")])
    elif name == "deepseek":
        pre = P.Sequence([split(r"[\r\n]"), split(r"\s?\p{L}+"), split(r"\s?\p{P}+"), split("[一-龥ࠀ-一가-퟿]+"),
                          P.Digits(True), bl()])
    elif name == "smollm":
        pre = P.Sequence([P.Digits(True), bl(False, True)])
    else:
        byte_level = False
        model = dict(unk_token="<unk>", fuse_unk=True, byte_fallback=True)
        dec = SPM
    if byte_level:
        alphabet, dec = P.ByteLevel.alphabet(), D.ByteLevel()
    if name == "llama2":
        norm = N.Sequence([N.Prepend("▁"), N.Replace(" ", "▁")])
        post = X.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
        added = [AddedToken("<|end|>", rstrip=True, special=True, normalized=False),
                 AddedToken("two words", normalized=True)]
    elif name == "gemma":
        norm, pre = N.Replace(" ", "▁"), P.Split(" ", "merged_with_previous")
        dec = D.Sequence([D.Replace("▁", " "), D.ByteFallback(), D.Fuse()])
        added = [AddedToken(s, normalized=False) for s in ("\n\n", "\n\n\n", "▁▁", "▁▁▁", "<b>")]
    elif name == "metaspace-first":
        pre = P.Metaspace("▁", "first", split=False)
    elif name == "metaspace-always":
        norm = N.Sequence([N.NFKC(), N.Lowercase(), N.Strip()])
        pre, dec = P.Metaspace("▁", "always", split=True), D.Metaspace("▁", "always")
        model = dict(unk_token="<unk>", fuse_unk=False)
    elif name == "whitespace":
        norm, pre, dec = N.NFD(), P.Whitespace(), None
        model = dict(unk_token="<unk>", fuse_unk=True)
    elif name == "behaviors":
        norm = N.Sequence([N.NFKD(), N.Replace(Regex(r"\s{2,}"), " - ")])
        pre = P.Sequence([P.WhitespaceSplit(), split("[aeiou]", "merged_with_next"), split(r"\d", "contiguous"),
                          split(r"[,;]", "removed"), split(r"\w{1,5}", "removed", True), P.Split("th", "merged_with_previous")])
        model, dec = {}, D.Fuse()
    t = Tokenizer(models.BPE(**model))
    if norm: t.normalizer = norm
    if pre: t.pre_tokenizer = pre
    if model.get("byte_fallback"): special = special + BYTES
    t.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=len(special) + (256 if byte_level else 70) + 160,
                          special_tokens=special, initial_alphabet=alphabet, limit_alphabet=256 if byte_level and name != "falcon" else 100, show_progress=False))
    if model.get("byte_fallback"):  # as in real files: byte tokens are in the vocabulary, not in added_tokens
        j = json.loads(t.to_str())
        j["added_tokens"] = [a for a in j["added_tokens"] if not a["content"].startswith("<0x")]
        t = Tokenizer.from_str(json.dumps(j))
    if added: t.add_tokens(added)
    if post: t.post_processor = post
    if dec: t.decoder = dec
    return t


NAMES = ["qwen2", "llama3", "gpt2", "o200k", "tekken", "falcon", "deepseek", "smollm", "llama2", "gemma",
         "metaspace-first", "metaspace-always", "whitespace", "behaviors"]
ATOMS = list(" \n\r\t  '’.,!?;019aeXYZ-_/<>|▁éñßÅǅſ中文日本語ไทยहिन्दी한국어가각\u1100\u1161\u11a8٣²½Ⅷ①\u00a0\u0085\u200b\u200d\u3000\u0301\u0323ﬁＡ🙂🇫🇷�\x00\x7f") + \
    ["'s", "'T", "'re", "'LL", "'ſ", "<s>", "</s>", "<unk>", "<|im_end|>", "<|endoftext|>", "<tool_call>", "<|end|>",
     "magic", " wide ", "[L]", "[R]", "two words", "<b>", "hello", " the", "and ", "King", "  ", "\n\n", "▁▁", "<0x41>"]


def texts(corpus, n, seed):
    r = random.Random(seed)
    out = ["", " ", "Hello world", "  two  spaces ", "a magic magical magic", "x [L] y [R]  z", "naïve café e\u0301",
           "\ud050\u11a7\uac00\u11a8", "a\u0301\u0323\u0301", "[R]  [L] x", "[R] \t\n x", "xmagic magic1 magic magicx", "<|end|> \n two words"]
    out += ["abcab" * 60, " the and" * 40 + "\n", "é" * 150, "a" * 300]  # long words
    while len(out) < n:
        if r.random() < 0.3:
            i = r.randrange(len(corpus) - 200)
            out.append(corpus[i:i + r.randrange(1, 120)])
        else:
            out.append("".join(r.choice(ATOMS) for _ in range(r.randrange(1, 24))))
    return out


def golden(t, text):
    ids, s = t.encode(text, add_special_tokens=False).ids, t.encode(text).ids
    t.encode_special_tokens = True
    p = t.encode(text, add_special_tokens=False).ids
    t.encode_special_tokens = False
    return dict(t=text, i=ids, s=s, p=p, d=t.decode(s, skip_special_tokens=False), k=t.decode(s))


if __name__ == "__main__":
    corpus = open(sys.argv[1], encoding="utf8").read()
    named = dict(a.split("=", 1) for a in sys.argv[2:])
    for k, name in enumerate(NAMES + list(named)):
        if name in named:
            t = Tokenizer.from_file(named[name])
        else:
            t = make(name, corpus[:200000].splitlines(True))
        j = json.dumps(json.loads(t.to_str()), ensure_ascii=False, separators=(",", ":"))
        open(name + ".json", "w", encoding="utf8").write(j.replace('"added_tokens"', '\n"added_tokens"').replace('"model"', '\n"model"') + "\n")
        with open(name + ".golden", "w", encoding="utf8") as f:
            for x in texts(corpus, 40, k):
                f.write(json.dumps(golden(t, x), ensure_ascii=True, separators=(",", ":")) + "\n")
