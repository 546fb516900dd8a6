#!/usr/bin/env python3
"""What the reference trainers make of a small text, for src/data/tokenizers/tokenizers.test.ts.

Usage:   python3 scripts/make-tokenizer-training-golden.py        (needs: pip install tokenizers==0.23.2 sentencepiece==0.2.2)
Output:  fixtures/golden/tokenizer_training.json.gz: the texts (our own), the merges of Hugging Face's byte-level trainer for
         two pre-tokenizers, and the model of SentencePiece's BPE trainer with its encoding of all texts.
"""
import base64
import gzip
import io
import json
import pathlib

import sentencepiece
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

TEXTS = [
    "The quick brown fox jumps over the lazy dog; the dog, being lazy, does not jump over the quick fox.",
    "A token is a piece of text. Tokens of frequent text are long, tokens of rare text are short.",
    "for (let i = 0; i < 1000; i++) { total += values[i] * 0.5; }  // 1000 values, 1001 fences",
    "Größe, Übermaß, naïve café, Ελληνικά και ελληνική γλώσσα, русский язык и русские языки.",
    "今天天气很好，今天天气真好。日本語のテキストと日本のテキスト。한국어 텍스트와 한국어 문장.",
    "Emoji: 👍👍🏽👩‍👩‍👧 🇪🇺, marks: é ë n̈, blanks:  two   three, tabs:\t\tend, zeros: 0000000000000000",
    "don't can't won't it's we're I'd they'll YOU'RE; aaaa aaaaa aaaaaa abababab ababab",
]
REPEATS = 3
ODD = ["", " ", "  two  blanks ", "新しい wörd", "\u0000\u0085\u00a0\u2028", "👩‍👩‍👧 é", "<s> <unk> <0x41>", "a\nb\r\n\nc", "ﬁ ① Ⅷ ͏ 𝔘"]
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def byte_level(pattern, size):
    tokenizer = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None)
    split = pre_tokenizers.Split(Regex(pattern), "isolated") if pattern else None
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level]) if split else byte_level
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=2,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS * REPEATS, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    merges = [pair if isinstance(pair, list) else pair.split(" ") for pair in model["merges"]]
    return {"size": size, "merges": merges}


def sentence_piece(size):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * REPEATS),
        model_writer=model,
        vocab_size=size,
        model_type="bpe",
        byte_fallback=True,
        character_coverage=0.98,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    return {
        "size": size,
        "coverage": 0.98,
        "model": base64.b64encode(model.getvalue()).decode(),
        "encoded": [processor.encode(text) for text in TEXTS + ODD],
    }


golden = {
    "texts": TEXTS,
    "repeats": REPEATS,
    "odd": ODD,
    "gpt-2": byte_level(None, 420),
    "llama3": byte_level(LLAMA3, 420),
    "sentence_piece": sentence_piece(480),
}
path = pathlib.Path(__file__).parent.parent / "fixtures" / "golden" / "tokenizer_training.json.gz"
text = json.dumps(golden, ensure_ascii=False, separators=(",", ":")) + "\n"
path.write_bytes(gzip.compress(text.encode(), 9, mtime=0))
