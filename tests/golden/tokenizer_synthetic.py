"""Small tokenizers that exercise every normalizer, pre-tokenizer, flag and decoder alone: name -> tokenizer.json.

Used by tokenizer.py. Pieces are made visible by an end_of_word_suffix: the last byte of each piece is another token.
"""
import random

SPACES = r"|\s+(?!\S)|\s+"
EXPRESSIONS = {
    "gpt2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+" + SPACES,
    "llama3": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
              + SPACES,
    "qwen35": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
              r"|\s*[\r\n]+" + SPACES,
    "o200k": r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
             r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
             r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+" + SPACES,
    "cl100k_possessive": r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$"
                         r"|\s*[\r\n]|\s+(?!\S)|\s",
    "deepseek": "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
                "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+" + SPACES,
    "deepseek_cjk": "[一-龥\u0800-一가-\ud7ff]+",
    "kimi": r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+"
            r"(?i:'s|'t)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+" + SPACES,
    "word": r"\w+", "not_word": r"\W+", "word_in_class": r"[a\W]+", "not_word_in_class": r"[^a\W]+",
    "boundary": r"\b\w", "no_boundary": r"\B.", "hex": r"\h+|[\H]", "vertical_tab": r"\v|\f", "digits": r"\d+|[\D]",
    "blank": r"\s", "not_blank": r"[^\S]+", "dot": r".+", "dot_all": r"(?m).+", "lines": r"^.|x$",
    "rest_of_group": r"(?:a(?i)b|c)d?", "code_points": "\\u00e9|\\u4e2d+|\\x41|\\x{1F44D}",
    "repeats": r"(?:ab){2}+|a{2}?b|a{,2}c|a**x|1{2,3}?|\p{N}{1,3}+", "possessive": r"a*+b|[^ ]++ ",
    "nested": r"[a[bc]d[^\P{L}e]]+", "intersection": r"[a-z&&[^aeiou]]+|[\w&&[^\d_]]+", "not_both": r"[^a-z&&[^aeiou]]+",
    "brackets": r"[]a]+|[a-]+|[\]\-\[]", "names": r"(?<q>['\"]).*?\k<q>",
    "backreference": r"(.)\1+", "atomic": r"(?>a+)b|x(?# no)y",
    "looks": r"(?<=[a-z])[A-Z]|(?<![0-9])1|(?!x)\w+(?=\s)", "extended": "(?x) a b # c\n | c [ ]",
    "scripts": r"\p{Latin}+|\p{Cyrillic}+|\p{Hiragana}+|\p{Greek}+|\p{Han}+|\p{^L}+", "no_braces": r"\pL|a{1|b{,}|}{",
    "long_names": r"\p{Letter}+|\p{White_Space}+|\p{Nd}+|\p{Emoji}+|\p{Cn}", "literals": r"\.|\-|\/|\ |\#|\j|\é",
    "empty": r"\d*|(?=[A-Z])", "line_ends": r"\R+|\N", "anchors": r"\A.|.\z|\G\w", "keep": r"a\Kb",
}
for posix in "alnum alpha blank cntrl digit graph lower print punct space upper xdigit word ascii ^alpha".split():
    EXPRESSIONS["posix_" + posix] = "[[:%s:]]+" % posix


def byte_alphabet():
    own = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    rest = [b for b in range(256) if b not in own]
    return [chr(b) if b in own else chr(256 + rest.index(b)) for b in range(256)]


BYTES = byte_alphabet()
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
MARKS = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
                                             {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]}
SPM_DECODER = {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                                                {"type": "ByteFallback"}, {"type": "Fuse"},
                                                {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}


def tokenizer(norm=None, pre=None, added=(), model=None, decoder=BYTE_LEVEL, vocab=None):
    """added: (text, flags); flags of w(ord) l(strip) r(strip) n(ormalized) s(pecial)."""
    if vocab is None:
        vocab = {c: i for i, c in enumerate(BYTES)}
        vocab |= {c + "</w>": 256 + i for i, c in enumerate(BYTES)}
    flags = ("single_word", "w"), ("lstrip", "l"), ("rstrip", "r"), ("normalized", "n"), ("special", "s")
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [dict(id=len(vocab) + i, content=text, **{key: f in given for key, f in flags})
                         for i, (text, given) in enumerate(added)],
        "normalizer": norm, "pre_tokenizer": pre, "post_processor": None, "decoder": decoder,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": "</w>", "fuse_unk": False, "byte_fallback": False, "vocab": vocab,
                  "merges": []} | (model or {}),
    }


def pieces(*steps):
    return {"type": "Sequence", "pretokenizers": list(steps) + [BYTE_LEVEL]}


def split(pattern, behavior="Isolated", invert=False, kind="Regex"):
    return {"type": "Split", "pattern": {kind: pattern}, "behavior": behavior, "invert": invert}


def chain(*steps):
    return {"type": "Sequence", "normalizers": list(steps)}


def normalizers():
    out = {n: tokenizer({"type": n}, BYTE_LEVEL) for n in "NFC NFD NFKC NFKD Lowercase StripAccents Nmt".split()}
    out["Strip"] = tokenizer({"type": "Strip", "strip_left": True, "strip_right": True}, BYTE_LEVEL)
    out["Strip_left"] = tokenizer({"type": "Strip", "strip_left": True, "strip_right": False}, BYTE_LEVEL)
    out["ByteLevel_normalizer"] = tokenizer({"type": "ByteLevel"})
    for clean, chinese, accents, lower in ((1, 1, None, 1), (0, 1, True, 0), (1, 0, False, 1)):
        out["Bert_%d%d%s%d" % (clean, chinese, accents, lower)] = tokenizer(
            {"type": "BertNormalizer", "clean_text": bool(clean), "handle_chinese_chars": bool(chinese),
             "strip_accents": accents, "lowercase": bool(lower)}, BYTE_LEVEL)
    out["Prepend"] = tokenizer(MARKS, BYTE_LEVEL, [("<x>", "s"), ("b", "")])
    out["Replace"] = tokenizer(chain({"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
                                     {"type": "Replace", "pattern": {"Regex": "x*"}, "content": "-"},
                                     {"type": "Replace", "pattern": {"Regex": r"[^\p{L}\p{N}\s]"}, "content": ""}),
                               BYTE_LEVEL)
    return out


def pre_tokenizers():
    out = {}
    for space in (True, False):
        for regex in (True, False):
            out["ByteLevel_%d%d" % (space, regex)] = tokenizer(
                pre=dict(BYTE_LEVEL, add_prefix_space=space, use_regex=regex), added=[("<x>", "s")])
    for single in (True, False):
        out["Digits_%d" % single] = tokenizer(pre=pieces({"type": "Digits", "individual_digits": single}))
    for behavior in "Isolated Removed MergedWithPrevious MergedWithNext Contiguous".split():
        out["Punctuation_" + behavior] = tokenizer(pre=pieces({"type": "Punctuation", "behavior": behavior}))
        for invert in (True, False):
            name = "%s_%d" % (behavior, invert)
            out["Split_" + name] = tokenizer(pre=pieces(split(r"[aeiou\s]", behavior, invert)))
            out["Split_text_" + name] = tokenizer(pre=pieces(split(" ", behavior, invert, "String")))
            out["Split_empty_" + name] = tokenizer(pre=pieces(split(r"\d*|(?=[A-Z])", behavior, invert)))
    for name in "Whitespace WhitespaceSplit BertPreTokenizer".split():
        out[name] = tokenizer(pre=pieces({"type": name}))
    out["CharDelimiterSplit"] = tokenizer(pre=pieces({"type": "CharDelimiterSplit", "delimiter": "e"}))
    out["FixedLength"] = tokenizer(pre=pieces({"type": "FixedLength", "length": 3}))
    for scheme in "always first never".split():
        for cut in (True, False):
            meta = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": cut}
            out["Metaspace_%s%d" % (scheme, cut)] = tokenizer(pre=pieces(meta), added=[("<x>", "s"), ("the", "")],
                                                              decoder=meta)
    for name, expression in EXPRESSIONS.items():
        out["regex_" + name] = tokenizer(pre=pieces(split(expression)))
    return out


def random_merges(seed, alphabet, count, first=(), prefix="", suffix="", pairs=True):
    """A vocabulary and merges drawn at random; the first tokens take no part."""
    rng = random.Random(seed)
    vocab = {}
    for c in list(first) + list(alphabet) + [prefix + c for c in alphabet] + [c + suffix for c in alphabet] + \
            [prefix + c + suffix for c in alphabet]:
        vocab.setdefault(c, len(vocab))
    usable, merges = [t for t in vocab if t not in first], []
    for _ in range(20 * count):
        a, b = rng.choice(usable), rng.choice(usable)
        new = a + b[len(prefix):]
        if len(merges) == count or len(new) > 9 or not b.startswith(prefix) or (suffix and a.endswith(suffix)):
            continue
        if new not in vocab:
            usable.append(new)
            vocab[new] = len(vocab)
        merges.append([a, b] if pairs else a + " " + b)
    return vocab, merges


def models():
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFTHI0123456789.,'<|>▁é中"
    fallback = ["<unk>"] + ["<0x%02X>" % b for b in range(256)]
    some = ["<unk>"] + ["<0x%02X>" % b for b in range(0xE5)]
    at_mark = split("▁", "MergedWithNext", kind="String")
    words = {"type": "WhitespaceSplit"}
    out = {}

    def add(name, seed, alphabet=letters, count=300, norm=MARKS, pre=None, added=(), decoder=None, first=(), prefix="",
            suffix="", pairs=True, **flags):
        vocab, merges = random_merges(seed, alphabet, count, first, prefix, suffix, pairs)
        out[name] = tokenizer(norm, pre, added, dict(merges=merges, continuing_subword_prefix=prefix or None,
                                                     end_of_word_suffix=suffix or None, **flags), decoder, vocab)

    add("byte_fallback", 1, first=fallback, unk_token="<unk>", byte_fallback=True, fuse_unk=True,
        added=[("<unk>", "s")], decoder=SPM_DECODER)
    add("unknown", 2, first=["<unk>"], unk_token="<unk>", added=[("<unk>", "s")])
    add("unknown_fused", 3, first=["<unk>"], unk_token="<unk>", fuse_unk=True)
    add("some_bytes", 4, first=some, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    add("some_bytes_apart", 5, first=some, unk_token="<unk>", byte_fallback=True)
    add("no_unknown", 6)
    add("prefix", 7, norm=None, pre={"type": "Whitespace"}, first=["[UNK]"], unk_token="[UNK]", prefix="##",
        decoder={"type": "WordPiece", "prefix": "##", "cleanup": True})
    add("suffix", 8, norm=None, pre=words, first=["<unk>"], unk_token="<unk>", suffix="</w>",
        decoder={"type": "BPEDecoder", "suffix": "</w>"})
    add("prefix_suffix", 9, norm=None, pre=words, first=["<unk>"], unk_token="<unk>", prefix="@@", suffix="</w>")
    add("affixes_bytes", 10, norm=None, pre=words, first=fallback, byte_fallback=True, prefix="@@", suffix="</w>")
    add("ignore_merges", 11, pre=at_mark, count=600, ignore_merges=True)
    add("obey_merges", 11, pre=at_mark, count=600, ignore_merges=False)
    for i, count in enumerate((20, 60, 150, 300)):
        add("dense_%d" % i, 20 + i, "ab▁", count)
    add("merge_texts", 30, "abe", 60, pairs=False)
    vocab, merges = random_merges(40, "abct", 60)
    out["repeated_merges"] = tokenizer(model=dict(merges=merges + merges[::-3], end_of_word_suffix=None), vocab=vocab,
                                       decoder=None)
    vocab, merges = random_merges(41, "abcthe ", 60)
    out["id_gaps"] = tokenizer(model=dict(merges=merges, end_of_word_suffix=None), decoder=None,
                               vocab={t: 7 * i + 3 for t, i in vocab.items()})
    return out


def added_tokens():
    texts = ["<x>", "THE", "Fox J", "\n", "é", "  ", "the quick", "<|im_start|>", "a", "<x><x>", "\r\n", "'s"]
    lower = chain({"type": "Lowercase"}, {"type": "Replace", "pattern": {"String": " "}, "content": "_"})
    out = {}
    for flags in ("", "s", "sl", "sr", "sw", "n", "nl", "nr", "nw"):
        out["added_" + (flags or "plain")] = tokenizer(lower if "n" in flags else None, pieces(split(r"\s")),
                                                       [(t, flags) for t in texts] + [("ab", "s")])
    out["added_mixed"] = tokenizer({"type": "NFKC"}, pieces(split(r"\s")), [
        ("ﬁ", "n"), ("½", "s"), ("Ⅷ", "sn"), ("x", "sw"), ("xx", "sl"), (" x ", "s"), ("the", "nw"), ("<s>", "sn")])
    return out


def decoders():
    steps = [{"type": "Replace", "pattern": {"Regex": "[a-f]+"}, "content": "#"}, {"type": "Fuse"},
             {"type": "Replace", "pattern": {"String": "##"}, "content": " "},
             {"type": "Strip", "content": "Ġ", "start": 1, "stop": 3}]
    given = {
        "CTC": {"type": "CTC", "pad_token": "a", "word_delimiter_token": "Ġ", "cleanup": True},
        "CTC_plain": {"type": "CTC", "pad_token": "a", "word_delimiter_token": "Ġ", "cleanup": False},
        "WordPiece": {"type": "WordPiece", "prefix": "e", "cleanup": True},
        "Strip_decoder": {"type": "Strip", "content": "a", "start": 2, "stop": 1}, "none": None,
        "Sequence_decoder": {"type": "Sequence", "decoders": steps},
    }
    return {"decoder_" + name: tokenizer(pre=BYTE_LEVEL, decoder=d) for name, d in given.items()}


def all_tokenizers():
    return normalizers() | pre_tokenizers() | models() | added_tokens() | decoders()
