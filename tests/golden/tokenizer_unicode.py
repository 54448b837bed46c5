"""Writes data/unicode_tables.def: where the Unicode data of the reference library and of ours differ.

The `tokenizers` library carries character data of several ages: Oniguruma (regular expressions), Rust's standard
library (numbers, lower case), the regex crate (word characters), and two old crates (normalization, punctuation).
utf8proc and PCRE2 have one age each. Ids must be equal for every character, so the differences are tables. All of them
only add or take away single characters; with a newer utf8proc or PCRE2 the additions become harmless repetitions.

Made with tokenizers 0.23.3, PCRE2 10.42, utf8proc 2.8.0. No random numbers. Usage: tokenizer_unicode.py OUT.def
"""
import ctypes
import sys

from tokenizers import Regex, normalizers, pre_tokenizers

CPS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
ALL = "".join(map(chr, CPS))

pcre2 = ctypes.CDLL("libpcre2-8.so.0")
utf8proc = ctypes.CDLL("libutf8proc.so.2")
pcre2.pcre2_compile_8.restype = ctypes.c_void_p
pcre2.pcre2_match_data_create_8.restype = ctypes.c_void_p
utf8proc.utf8proc_category_string.restype = ctypes.c_char_p

# One-letter categories are the sum of these. PCRE2's other binary properties are as good as its age.
GC = "Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Co".split()
BINARY = "Alphabetic Lowercase Uppercase Ideographic Emoji Extended_Pictographic".split()
SCRIPTS = """Adlam Ahom Anatolian_Hieroglyphs Arabic Armenian Avestan Balinese Bamum Bassa_Vah Batak Bengali Bhaiksuki
Bopomofo Brahmi Braille Buginese Buhid Canadian_Aboriginal Carian Caucasian_Albanian Chakma Cham Cherokee Chorasmian
Common Coptic Cuneiform Cypriot Cypro_Minoan Cyrillic Deseret Devanagari Dives_Akuru Dogra Duployan
Egyptian_Hieroglyphs Elbasan Elymaic Ethiopic Georgian Glagolitic Gothic Grantha Greek Gujarati Gunjala_Gondi Gurmukhi
Han Hangul Hanifi_Rohingya Hanunoo Hatran Hebrew Hiragana Imperial_Aramaic Inherited Inscriptional_Pahlavi
Inscriptional_Parthian Javanese Kaithi Kannada Katakana Kayah_Li Kharoshthi Khitan_Small_Script Khmer Khojki Khudawadi
Lao Latin Lepcha Limbu Linear_A Linear_B Lisu Lycian Lydian Mahajani Makasar Malayalam Mandaic Manichaean Marchen
Masaram_Gondi Medefaidrin Meetei_Mayek Mende_Kikakui Meroitic_Cursive Meroitic_Hieroglyphs Miao Modi Mongolian Mro
Multani Myanmar Nabataean Nandinagari New_Tai_Lue Newa Nko Nushu Nyiakeng_Puachue_Hmong Ogham Ol_Chiki Old_Hungarian
Old_Italic Old_North_Arabian Old_Permic Old_Persian Old_Sogdian Old_South_Arabian Old_Turkic Old_Uyghur Oriya Osage
Osmanya Pahawh_Hmong Palmyrene Pau_Cin_Hau Phags_Pa Phoenician Psalter_Pahlavi Rejang Runic Samaritan Saurashtra
Sharada Shavian Siddham SignWriting Sinhala Sogdian Sora_Sompeng Soyombo Sundanese Syloti_Nagri Syriac Tagalog Tagbanwa
Tai_Le Tai_Tham Tai_Viet Takri Tamil Tangsa Tangut Telugu Thaana Thai Tibetan Tifinagh Tirhuta Toto Ugaritic Vai
Vithkuqi Wancho Warang_Citi Yezidi Yi Zanabazar_Square Kawi Nag_Mundari Garay Gurung_Khema Kirat_Rai Ol_Onal Sunuwar
Todhri Tulu_Tigalari""".split()


def reference_set(regex):
    """Characters that Oniguruma matches, or None when it does not know the property."""
    try:
        rest = normalizers.Replace(Regex(regex), "").normalize_str(ALL)
    except Exception:
        return None
    return set(ALL) - set(rest)


def our_set(regex):
    """The same of PCRE2: walk over its matches of [regex]+."""
    error, at = ctypes.c_int(), ctypes.c_size_t()
    pattern = ("[%s]+" % regex).encode()
    code = pcre2.pcre2_compile_8(pattern, ctypes.c_size_t(len(pattern)), 0x00080000 | 0x00020000, ctypes.byref(error),
                                 ctypes.byref(at), None)  # PCRE2_UTF | PCRE2_UCP
    if not code:
        return None
    data = ctypes.c_void_p(pcre2.pcre2_match_data_create_8(1, None))
    pcre2.pcre2_get_ovector_pointer_8.restype = ctypes.POINTER(ctypes.c_size_t)
    ranges = pcre2.pcre2_get_ovector_pointer_8(data)
    subject, found, start = ALL.encode(), set(), 0
    pcre2.pcre2_jit_compile_8(ctypes.c_void_p(code), 1)
    while pcre2.pcre2_match_8(ctypes.c_void_p(code), subject, ctypes.c_size_t(len(subject)), ctypes.c_size_t(start),
                              ctypes.c_uint32(0x40000000), data, None) > 0:  # PCRE2_NO_UTF_CHECK
        begin, end = ranges[0], ranges[1]
        found |= set(subject[begin:end].decode())
        start = end
    return found


def category_set(prefixes):
    return {c for c in ALL if utf8proc.utf8proc_category_string(ord(c)).decode().startswith(prefixes)}


def ranges_of(chars):
    out = []
    for c in sorted(map(ord, chars)):
        if out and out[-1][1] == c - 1:
            out[-1][1] = c
        else:
            out.append([c, c])
    return out


def write_rows(f, rows):
    """X(..) entries, as many on a line of 118 characters as fit."""
    line = ""
    for row in rows:
        if len(line) + len(row) > 112:
            f.write(" \\\n   " + line)
            line = ""
        line += " " + row
    if line:
        f.write(" \\\n   " + line)


def write_ranges(f, name, comment, chars):
    f.write("/* %s */\n#define %s(X)" % (comment, name))
    write_rows(f, ["X(0x%04X, 0x%04X)" % (low, high) for low, high in ranges_of(chars)])
    f.write("\n\n")


def write_property(f, name, known, chars):
    """Items of a class, in several entries where one text would be too long for ISO C."""
    items = ["\\\\x{%x}" % a if a == b else "\\\\x{%x}-\\\\x{%x}" % (a, b) for a, b in ranges_of(chars)]
    plain = name.lower().replace("_", "")
    for first in range(0, len(items), 100):
        f.write(' \\\n    X("%s", %d,' % (plain, known))
        line = ""
        for item in items[first:first + 100]:
            if len(line) + len(item) > 106:
                f.write(' \\\n      "%s"' % line)
                line = ""
            line += item
        f.write(' \\\n      "%s")' % line)


def properties(f):
    f.write("/* Characters that Oniguruma has in a property and PCRE2 does not; known: PCRE2 has the property at all. */\n"
            "#define PROPERTY_NEWER(X)")
    for name in GC + BINARY + SCRIPTS:
        wanted = reference_set(r"\p{%s}" % name)
        ours = our_set(r"\p{%s%s}" % ("sc:" if name in SCRIPTS else "", name))
        if wanted is None:
            sys.stderr.write("the reference has no property %s\n" % name)
        elif ours is None or wanted - ours:
            write_property(f, name, ours is not None, wanted - (ours or set()))
        if wanted is not None and ours and ours - wanted:
            sys.stderr.write("%s: PCRE2 has more: %s\n" % (name, ranges_of(ours - wanted)[:5]))
    f.write("\n\n")


def word_set():
    spaces = {c for c, left in ((c, pre_tokenizers.Whitespace().pre_tokenize_str(c)) for c in ALL) if not left}
    return {c for c in ALL if c not in spaces and len(pre_tokenizers.Whitespace().pre_tokenize_str("a" + c)) == 1}


def number_set():
    pieces = pre_tokenizers.Digits(individual_digits=False).pre_tokenize_str(ALL)
    assert pieces[1][0] == "0123456789"
    return set("".join(text for i, (text, _) in enumerate(pieces) if i % 2))


def classes(f):
    alphabetic_symbols = {chr(c) for a, b in ((0x24B6, 0x24E9), (0x1F130, 0x1F149), (0x1F150, 0x1F169),
                                              (0x1F170, 0x1F189)) for c in range(a, b + 1)}
    ours = category_set(("L", "M", "Nl", "Nd", "Pc")) | alphabetic_symbols | {"\u200c", "\u200d"}
    write_ranges(f, "WORD_NEWER", "Word characters that utf8proc does not know yet.", word_set() - ours)
    write_ranges(f, "NUMBER_NEWER", "Numbers that utf8proc does not know yet.", number_set() - category_set(("N",)))
    ascii_marks = {c for c in ALL[:128] if c.isprintable() and not c.isalnum() and c != " "}
    kept = pre_tokenizers.Punctuation("removed").pre_tokenize_str(ALL)
    wanted, ours = set(ALL) - set("".join(t for t, _ in kept)), category_set(("P",)) | ascii_marks
    write_ranges(f, "PUNCTUATION_OLD", "Punctuation in the reference's old data only.", wanted - ours)
    write_ranges(f, "PUNCTUATION_LATER", "Punctuation that is newer than the reference's data.", ours - wanted)
    wanted, ours = set(ALL) - set(normalizers.StripAccents().normalize_str(ALL)), category_set(("M",))
    write_ranges(f, "MARK_OLD", "Marks in the reference's old data only.", wanted - ours)
    write_ranges(f, "MARK_LATER", "Marks that are newer than the reference's data.", ours - wanted)
    clean = normalizers.BertNormalizer(clean_text=True, handle_chinese_chars=False, strip_accents=False, lowercase=False)
    dropped = {c for c in ALL if clean.normalize_str(c) == ""}
    write_ranges(f, "OTHER_LATER", "Control and format characters that are newer than the reference's data.",
                 category_set(("Cc", "Cf", "Co")) - set("\t\n\r") - dropped)
    blank = {c for c in ALL if clean.normalize_str(c) == " "}
    assert not blank & dropped
    accents = normalizers.BertNormalizer(clean_text=False, handle_chinese_chars=False, strip_accents=True, lowercase=False)
    ours = category_set(("Mn",))
    wanted = {c for c in ALL if accents.normalize_str(c) == ""}
    write_ranges(f, "NONSPACING_OLD", "Nonspacing marks in the reference's old data only.", wanted - ours)
    write_ranges(f, "NONSPACING_LATER", "Nonspacing marks that are newer than the reference's data.", ours - wanted)


def our_decomposition(c, compatible):
    out = (ctypes.c_int32 * 64)()
    boundary = ctypes.c_int(0)
    options = (1 << 1) | (1 << 4) | ((1 << 2) if compatible else 0)  # STABLE, DECOMPOSE, COMPAT
    n = utf8proc.utf8proc_decompose_char(ord(c), out, 64, options, ctypes.byref(boundary))
    return "".join(chr(x) for x in out[:n])


class Property(ctypes.Structure):
    _fields_ = [("category", ctypes.c_int16), ("combining_class", ctypes.c_int16)]


def normalization(f):
    nfd, nfkd = normalizers.NFD(), normalizers.NFKD()
    late = {c for c in ALL if nfkd.normalize_str(c) == c and our_decomposition(c, True) != c}
    late |= {c for c in ALL if nfd.normalize_str(c) == c and our_decomposition(c, False) != c}
    write_ranges(f, "DECOMPOSITION_LATER", "Decompositions that are newer than the reference's data.", late)
    utf8proc.utf8proc_get_property.restype = ctypes.POINTER(Property)
    combining = {c for c in ALL if utf8proc.utf8proc_get_property(ord(c)).contents.combining_class}
    # A mark that the reference knows moves before a higher one, or a lower one moves before it.
    moves = {c for c in combining if nfd.normalize_str("\u0345" + c) != "\u0345" + nfd.normalize_str(c)
             or nfd.normalize_str(c + "\u0334") != nfd.normalize_str(c) + "\u0334" or
             utf8proc.utf8proc_get_property(ord(c)).contents.combining_class in (1,)}
    write_ranges(f, "COMBINING_LATER", "Combining classes that are newer than the reference's data.", combining - moves)


def lower_case(f):
    lower, rows = normalizers.Lowercase(), []
    for c in ALL:
        low = lower.normalize_str(c)
        ours = chr(utf8proc.utf8proc_tolower(ord(c)))
        if low == ours or c == "\u0130":
            continue
        assert len(low) == 1, c
        delta = ord(low) - ord(c)
        if rows and rows[-1][1] == ord(c) - 1 and rows[-1][2] == delta:
            rows[-1][1] = ord(c)
        else:
            rows.append([ord(c), ord(c), delta])
    f.write("/* Lower case that utf8proc does not know yet: first, last, distance. */\n#define LOWERCASE_NEWER(X)")
    write_rows(f, ["X(0x%04X, 0x%04X, %d)" % tuple(row) for row in rows])
    f.write("\n")


def main():
    with open(sys.argv[1], "w") as f:
        f.write("/*\n * unicode_tables.def - where the reference library's Unicode data differ from PCRE2's and utf8proc's.\n *\n"
                " * Generated by tests/golden/tokenizer_unicode.py, which explains why; do not edit.\n */\n")
        properties(f)
        classes(f)
        normalization(f)
        lower_case(f)


if __name__ == "__main__":
    main()
