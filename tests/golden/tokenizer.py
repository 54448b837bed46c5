"""Golden data of tests/data/test_tokenizer.c, from the `tokenizers` library (0.23.3) and sentencepiece (0.2.3).

Usage: tokenizer.py DATA_DIR            writes DATA_DIR/{synthetic.jsonl.gz, bytelevel.gguf.gz, sentencepiece.gguf.gz}
       tokenizer.py --real FOLDER [N]   writes cases.jsonl beside every FOLDER/*/tokenizer.json (N lines, 100000)
Seeds are fixed. The second form makes the data for the full run (QLORA_TEST_TOKENIZERS=FOLDER).
synthetic.jsonl: {"name", "tokenizer", "cases": [[text, ids, decoded, decoded without special tokens], ...]} a line, null where not decoded;
the two GGUF lines have "gguf" (a file name) instead of "tokenizer". A case that the reference itself refuses is left
out.
"""
import gzip
import io
import json
import os
import random
import sys
import tempfile
import unicodedata

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

import tokenizer_synthetic as synthetic

WORDS = ("the quick brown fox jumps over lazy dog I'm you're HERE'S it's don't we'll they've d'accord naïve café Straße "
         "größer İstanbul ﬁne Москва привет мир 你好 世界 今天天气 こんにちは カタカナ 한국어 안녕하세요 עברית العربية ١٢٣ हिन्दी १२३ ไทย "
         "ελληνικά Ⅷ ½ ² x́ e\u0301 n\u0303 A\u030a 각 👍 👩‍👩‍👧 🏳️‍🌈 🇫🇷 def return self.x != None; https://example.com/a?b=c&d=1 "
         "user@mail.org 3.14159 1e-10 0xFF 12345 1234567890 $100 50% C++ a_b camelCase HTTPServer ___ --- ... !!! ?! "
         "<html> </div> {} [] () \\frac{1}{2} aab abab aaxx bcd <x> <x><x> THE Fox J xx <0x41> <unk>").split(" ")
BLANKS = [" ", "  ", "   ", "\t", "\n", "\r\n", "\n\n", "\r", "\x0b", "\x0c", "\u00a0", "\u2003", "\u3000", "\u2028",
          "\u0085", "\u200b", "\ufeff", "\u180e", "\u1680", "        ", "\n\n\n\n"]
# Order and blocking of marks, Hangul, characters that are newer than some of the reference's data, case that grows.
HARD = ["e\u0301\u0301 o\u0302\u0302\u0323 a\u0327\u0300\u0316 \u0344 a\u0345\u0301 a\u0310\u0301",
        "\u1100\u1161\u11a8\u11a8 \uac00\u11a8 \u11a8\u1100",
        "a\u1df7\u0316 b\u1acb\u0323 \u1715\u0334 c\u0898\u0897\u0301 \u1cf2\u1cf3\u111c9", "\u212b\u2126\ufb1d\u2adc\ufdfa\u32ff\ua7f2",
        "a\U00013e94b\u0897c \U00010d50\u1c89\ua7dc\U00016ea0 \U00010d40\U00011de0\U00016ff4 \U0002ebf0",
        "\U00011935\U00011930 \u166d\u2e52\u061d\u09fd \u2427\u2ffc \U0001e5ff", "\u0130I\u0131\u1e9e\u03a3 \u200c\u200d_ \u00b2\u00bc\u24b6"]
RUNS = ["a", "ab", "1", " ", "\n", "=", "的", "é", "e\u0301", "▁", "\u0301", "👍", "x1", "  \n"]


def any_character(rng):
    while True:
        low, high = rng.choice([(0x20, 0x7F), (0, 0x300), (0x300, 0x370), (0x370, 0x3100), (0x370, 0x3100),
                                (0xAC00, 0xAD00), (0x1100, 0x1200), (0xFB00, 0xFC00), (0x1F300, 0x1F700),
                                (0x3100, 0x10000), (0x10000, 0x20000), (0x20000, 0x110000)])
        c = rng.randrange(low, high)
        if not 0xD800 <= c < 0xE000:
            return chr(c)


def line(rng, specials):
    kind = rng.random()
    if kind < 0.2:
        return "".join(any_character(rng) for _ in range(rng.randrange(0, 30)))
    if kind < 0.5:
        return "".join(rng.choice(WORDS) + rng.choice([" ", " ", " ", ""] + BLANKS) for _ in range(rng.randrange(0, 14)))
    if kind < 0.56:
        return "".join(rng.choice(BLANKS) for _ in range(rng.randrange(0, 12)))
    if kind < 0.66 and specials:
        return "".join(rng.choice(["", rng.choice(WORDS), rng.choice(BLANKS), any_character(rng)]) + rng.choice(specials)
                       + rng.choice(["", rng.choice(WORDS), rng.choice(BLANKS)]) for _ in range(rng.randrange(1, 6)))
    if kind < 0.72:
        text, at = rng.choice(specials or WORDS), rng.randrange(4)
        return text[:at] + rng.choice(["", "x", " ", "<"]) + text[at + rng.randrange(2):]
    if kind < 0.76:
        return "".join(chr(rng.randrange(0x20)) if rng.random() < 0.5 else rng.choice("ab \x7f\x80\x9f")
                       for _ in range(rng.randrange(1, 20)))
    if kind < 0.81:
        return rng.choice(RUNS) * rng.randrange(1, 120)
    if kind < 0.88:
        return "".join(rng.choice("'sStTrRvVmMlLdDeE ſ’1\n") for _ in range(rng.randrange(1, 20)))
    if kind < 0.95:
        return "".join(rng.choice("abcdeABCDE0123456789+/=_-.") for _ in range(rng.choice([20, 60, 300])))
    form = rng.choice(["NFC", "NFD", "NFKC", "NFKD"])
    return unicodedata.normalize(form, (rng.choice(WORDS) + rng.choice(WORDS)) * rng.randrange(1, 4))


def lines(seed, count, specials=()):
    rng = random.Random(seed)
    return [line(rng, list(specials)) for _ in range(count)]


def sentences(seed, count):
    rng = random.Random(seed)
    return [" ".join(rng.choice(WORDS) for _ in range(rng.randrange(1, 30))) for _ in range(count)]


def attempt(call, *args, **named):
    try:
        return call(*args, **named)
    except BaseException:  # a panic of the reference is no Exception
        return None


def cases(reference, texts, decode=True):
    out = []
    for text in texts:
        encoding = attempt(reference.encode, text, add_special_tokens=False)
        if encoding is None:
            continue
        ids = encoding.ids
        if not decode:
            out.append([text, ids, None, None])
            continue
        plain = attempt(reference.decode, ids, skip_special_tokens=False)
        skipped = attempt(reference.decode, ids, skip_special_tokens=True)
        out.append([text, ids, plain, skipped])
    return out


def trained_byte_level():
    """Like SmolLM2's: digits one by one, then GPT-2's expression."""
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                               pre_tokenizers.ByteLevel(add_prefix_space=False)])
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator(sentences(7, 3000), trainers.BpeTrainer(
        vocab_size=1200, special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return t


def gzip_file(path, data):
    with open(path, "wb") as raw, gzip.GzipFile(filename="", fileobj=raw, mode="wb", compresslevel=9, mtime=0) as f:
        f.write(data)


def gguf_bytes(fill):
    import gguf
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "t.gguf")
        writer = gguf.GGUFWriter(path, "llama")
        fill(writer)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return open(path, "rb").read()


def byte_level_gguf(t):
    model = json.loads(t.to_str())["model"]
    tokens = [text for text, _ in sorted(t.get_vocab().items(), key=lambda item: item[1])]

    def fill(w):
        w.add_tokenizer_model("gpt2")
        w.add_tokenizer_pre("smollm")
        w.add_token_list(tokens)
        w.add_token_types([3] * 3 + [1] * (len(tokens) - 3))
        w.add_token_merges([" ".join(m) if isinstance(m, list) else m for m in model["merges"]])
        w.add_bos_token_id(1)
        w.add_eos_token_id(2)
        w.add_add_bos_token(True)
        w.add_chat_template("{{ messages }}")
    return gguf_bytes(fill)


def sentencepiece_model():
    import sentencepiece
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences(8, 3000)), model_writer=out, model_type="bpe", vocab_size=1000, hard_vocab_limit=False,
        byte_fallback=True,
        character_coverage=0.98, normalization_rule_name="identity", remove_extra_whitespaces=False,
        max_sentence_length=100000, num_threads=1, minloglevel=2)
    return sentencepiece.SentencePieceProcessor(model_proto=out.getvalue())


def charsmap():
    """A small compiled normalization: keys of one and two characters, replacements of none to three."""
    import base64
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2 as model
    rules = {"A": "a", "T": "th", "\u00e9": "E", "e\u0301": "x", "\ufb01": "fi", "\u0301": "", "\u4f60": "you", "ss": "z",
             "\t": " ", "\u2167": "VIII", "\U0001f44d": "+1"}
    out = io.BytesIO()
    with tempfile.NamedTemporaryFile("w", suffix=".tsv") as tsv:
        for key, text in rules.items():
            tsv.write(" ".join("%X" % ord(c) for c in key) + "\t" + " ".join("%X" % ord(c) for c in text) + "\n")
        tsv.flush()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(["a b c d e"] * 20), model_writer=out, model_type="bpe", vocab_size=20,
            hard_vocab_limit=False, normalization_rule_tsv=tsv.name, num_threads=1, minloglevel=2)
    proto = model.ModelProto()
    proto.ParseFromString(out.getvalue())
    return base64.b64encode(proto.normalizer_spec.precompiled_charsmap).decode()


def sentencepiece_gguf(sp):
    def kind(i):
        return 2 if sp.is_unknown(i) else 3 if sp.is_control(i) else 6 if sp.is_byte(i) else 1

    def fill(w):
        n = sp.get_piece_size()
        w.add_tokenizer_model("llama")
        w.add_token_list([sp.id_to_piece(i) for i in range(n)])
        w.add_token_scores([sp.get_score(i) for i in range(n)])
        w.add_token_types([kind(i) for i in range(n)])
        w.add_unk_token_id(0)
    return gguf_bytes(fill)


def write_golden(folder):
    rows = []
    texts = lines(1, 50, ["<x>", "THE", "Fox J", "\n", "é", "the quick", "<|im_start|>", "'s", "ab", "xx", "½"]) + HARD
    precompiled = synthetic.tokenizer({"type": "Precompiled", "precompiled_charsmap": charsmap()}, synthetic.BYTE_LEVEL)
    for name, description in (synthetic.all_tokenizers() | {"Precompiled": precompiled}).items():
        reference = Tokenizer.from_str(json.dumps(description))
        decode = name.split("_")[0] not in ("regex", "Split", "Punctuation")
        rows.append({"name": name, "tokenizer": description, "cases": cases(reference, texts, decode)})
    t = trained_byte_level()
    many = lines(2, 1000, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    rows.append({"name": "trained", "tokenizer": json.loads(t.to_str()), "cases": cases(t, many)})
    rows.append({"name": "trained_gguf", "gguf": "bytelevel.gguf.gz", "cases": cases(t, many)})
    sp = sentencepiece_model()
    spm = [text for text in lines(3, 1000) if text and not any(s in text for s in ("<unk>", "<s>", "</s>", "\0"))]
    rows.append({"name": "sentencepiece_gguf", "gguf": "sentencepiece.gguf.gz",
                 "cases": [[text, sp.encode(text), None, None] for text in spm]})
    data = "".join(json.dumps(row) + "\n" for row in rows)
    gzip_file(os.path.join(folder, "synthetic.jsonl.gz"), data.encode())
    gzip_file(os.path.join(folder, "bytelevel.gguf.gz"), byte_level_gguf(t))
    gzip_file(os.path.join(folder, "sentencepiece.gguf.gz"), sentencepiece_gguf(sp))
    print(len(rows), "tokenizers,", sum(len(row["cases"]) for row in rows), "cases")


def write_real(folder, count):
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name, "tokenizer.json")
        if not os.path.exists(path):
            continue
        reference = Tokenizer.from_file(path)
        added = [t["content"] for t in json.load(open(path))["added_tokens"]]
        with open(os.path.join(folder, name, "cases.jsonl"), "w") as f:
            for case in cases(reference, lines(9, count, added)):
                f.write(json.dumps(case) + "\n")
        print(name)


if __name__ == "__main__":
    if sys.argv[1] == "--real":
        write_real(sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 100000)
    else:
        write_golden(sys.argv[1])
