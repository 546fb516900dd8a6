"""Makes fixtures/tokenizers.json.br: small vocabularies of each tokenizer family and the ids that the reference
implementation (the Rust library behind the `tokenizers` package, Apache-2.0) gives for a list of texts.

Usage: python scripts/make-tokenizer-fixtures.py TRAINING_TEXT
       TRAINING_TEXT is any English text in the public domain; the stored files were made from Shakespeare's plays,
       the first 200,000 characters. Needs `pip install tokenizers==0.23.2 brotli==1.1.0`.
Output: one JSON object, compressed: `texts`, and of each family the reference's tokenizer.json and the ids.
"""

import json
import pathlib
import random
import sys

import brotli
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

OUT = pathlib.Path(__file__).resolve().parent.parent / "fixtures" / "tokenizers.json.br"
CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
TAIL = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
LEAD = r"[^\r\n\p{L}\p{N}]?"


def word(letters, digits, symbols):
    return rf"{CONTRACTIONS}|{LEAD}{letters}+|{digits}| ?[^\s{symbols}]+[\r\n]*{TAIL}"


def cased(digits, suffix):
    return (
        rf"{LEAD}{UPPER}*{LOWER}+{suffix}|{LEAD}{UPPER}+{LOWER}*{suffix}|{digits}"
        rf"| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*{TAIL}"
    )


PATTERNS = {
    "gpt-4o": cased(r"\p{N}{1,3}", CONTRACTIONS + "?"),
    "llama-bpe": word(r"\p{L}", r"\p{N}{1,3}", r"\p{L}\p{N}"),
    "qwen2": word(r"\p{L}", r"\p{N}", r"\p{L}\p{N}"),
    "qwen35": word(r"[\p{L}\p{M}]", r"\p{N}", r"\p{L}\p{M}\p{N}"),
    "tekken": cased(r"\p{N}", ""),
}

TEXTS = [
    "", "a", " ", "  ", "\n", "\r\n", "\t", "   a", "a  b   c", "Hello, world!", "Don't we'LL THEY'RE I'm it'S",
    "x'ſ y'ſd 'sad 'TIS 'S's x'", "\r\n\r\n  \r\n x", "a\n\n\nb\n \n c\t\t\n", "1234567890 12 3.14159 ½ Ⅷ ٣٤٥٦٧ 𝟘𝟙𝟚𝟛",
    "ÄÖÜ straße ǅungla ǅUNGLA ʰʰa Aʰb 中文字符混合English和数字123", "日本語のテキスト。カタカナ ひらがな",
    "한국어 텍스트입니다", "Привет мир, ЭТО ТЕСТ", "مرحبا بالعالم", "नमस्ते दुनिया क्षत्रिय", "ไทยภาษา",
    "e\u0301a\u0301 \u0301ABC \u0301abc A\u0301B\u0301 AB\u0301 \u0301 \u0301\u0301", "👨‍👩‍👧‍👦 👍🏽 🇩🇪 🏳️‍🌈",
    "\ufeffBOM\ufeff x", "a\u0085b\u0085\u0085c", "a\u00a0b\u2003c\u3000d\u200bz", "/path//to/file.txt\n/\n///\r\n",
    "foo_bar __init__ CamelCaseWordHTTPServer XMLHttpRequest ABCdefGHI", "!!!???...---===\n\n>>>",
    "<|endoftext|> <s> </s> <unk> <0x0A>", "▁▁a ▁ b▁c", "def f(x):\n    return x**2 # comment\n\n\tif a:\n\t\tpass",
    "A" * 100, "ab" * 60, " " * 100, "\n" * 50, "é" * 50, "中" * 80, "\x00\x01\x02\x7f", "𐐀𐐨𐑏 𐍈 𓀀𓁀",
    "ﬁ ﬂ ﬃ Å Å K K ℵ", "ß's ẞ'S İ'd ı'm", "x'Re 've'VE'll'LL'lL'm'M'd'D't'T",
    "a\u2028b\u2029c\u000bd\u000ce\u001cf\u001dg", "By zounds, zounds!", "the king and the queen shall speak of love " * 8,
]
POOLS = [
    "abcdefghijklmnopqrstuvwxyz", "ABCXYZ", "0123456789", " ", " ", "\n", "\r", "\t", "'", "sStTmMdDlLrReEvV",
    ".,;:!?/\\-_=+*&^%$#@()[]{}<>|~`\"", "éàüñßøÅ", "дежЖЯ", "中文字", "가힣", "ʰˠ", "ǅǈ", "\u0301\u0308", "अ\u093f",
    "😀👍🏽", "\u200d\ufe0f", "𝟘𝐀𝒂", "½Ⅷ٣", "\u00a0\u3000\u0085", "\ufeff\u200b", "ſK", "𐐀𐐨",
]


def all_texts():
    chance = random.Random(7)
    texts = list(TEXTS)
    for _ in range(120):
        pools = chance.sample(POOLS, chance.randint(1, 8))
        length = chance.choice([3, 8, 20, 50])
        texts.append("".join(chance.choice(chance.choice(pools)) for _ in range(length)))
    return texts


def train(tokenizer, alphabet, size, corpus):
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=alphabet, limit_alphabet=len(alphabet) + 60, show_progress=False
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return json.loads(tokenizer.to_str())


def byte_level(name, corpus):
    tokenizer = Tokenizer(models.BPE())
    if name == "gpt-2":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        split = pre_tokenizers.Split(Regex(PATTERNS[name]), "isolated")
        bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_only])
    if name.startswith("qwen"):
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    data = train(tokenizer, pre_tokenizers.ByteLevel.alphabet(), 700, corpus)
    data["model"]["ignore_merges"] = name in ("llama-bpe", "tekken")
    if name == "llama-bpe":
        # A token that no merge leads to: only taking pieces whole finds it.
        data["model"]["vocab"]["Ġzounds"] = len(data["model"]["vocab"])
    return add_tokens(data, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"])


def characters(name, corpus):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    data = train(tokenizer, list("▁\nabc.,'"), 500, corpus)
    learnt = [text for text, _ in sorted(data["model"]["vocab"].items(), key=lambda item: item[1])]
    texts = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    # As in SentencePiece files: what was merged comes first, the single characters last.
    texts += [t for t in learnt if len(t) > 1] + ["▁▁", "▁▁▁▁"] + [t for t in learnt if len(t) == 1]
    vocab = {text: id for id, text in enumerate(texts)}
    # Every way to put a token together from two others, in the order of the results.
    merges = [
        [text[:at], text[at:]]
        for text in texts[259:]
        for at in range(1, len(text))
        if text[:at] in vocab and text[at:] in vocab
    ]
    data["model"].update(vocab=vocab, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    unmark = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    steps = [unmark, {"type": "ByteFallback"}, {"type": "Fuse"}]
    if name == "llama":
        prepend = {"type": "Prepend", "prepend": "▁"}
        data["normalizer"] = {"type": "Sequence", "normalizers": [prepend, replace]}
        data["pre_tokenizer"] = None
        steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    else:
        data["normalizer"] = replace
        data["pre_tokenizer"] = {
            "type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False,
        }
    data["decoder"] = {"type": "Sequence", "decoders": steps}
    return add_tokens(data, ["<unk>", "<s>", "</s>"])


def add_tokens(data, contents):
    vocab = data["model"]["vocab"]
    data["added_tokens"] = [
        {
            "id": vocab.get(content, len(vocab) + at), "content": content, "single_word": False, "lstrip": False,
            "rstrip": False, "normalized": False, "special": True,
        }
        for at, content in enumerate(contents)
    ]
    return data


def main():
    corpus = pathlib.Path(sys.argv[1]).read_text(encoding="utf8")[:200_000].splitlines(keepends=True)
    texts = all_texts()
    # they share most of their vocabularies: together they take a quarter of what they take one by one
    parts = [f'"texts":{json.dumps(texts)}']
    for name in ["gpt-2", *PATTERNS, "llama", "gemma"]:
        make = characters if name in ("llama", "gemma") else byte_level
        data = make(name, corpus)
        reference = Tokenizer.from_str(json.dumps(data))
        ids = [reference.encode(text, add_special_tokens=False).ids for text in texts]
        stored = json.dumps({"tokenizer": data, "ids": ids}, separators=(",", ":"))
        parts.append(f"{json.dumps(name)}:{stored}")
    text = "{" + ",\n".join(parts) + "}\n"
    OUT.write_bytes(brotli.compress(text.encode(), quality=11, lgwin=22))


main()
