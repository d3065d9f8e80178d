"""The demo model's tokenizer: byte-level BPE, so that any text has tokens, with one token per marker."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

PAD, SYSTEM, USER, ASSISTANT, END = "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"
THINK, THINK_END = "<think>", "</think>"
TOOLS, RESULT = "<|tools|>", "<|tool|>"
CALL, CALL_END = "<tool_call>", "</tool_call>"
# The id of a marker is its index in this list.
MARKERS = [PAD, SYSTEM, USER, ASSISTANT, END, THINK, THINK_END, TOOLS, RESULT, CALL, CALL_END]
# A capital letter starts a token of its own, without the space before it: a name is the same tokens in a sentence and
# between quotes, so it can be copied into JSON token by token. "I" is no name.
WORDS = r"'(?:s|t|re|ve|m|ll|d)| I(?!\p{L})|\p{Lu}\p{L}*| ?[\p{Ll}\p{Lt}\p{Lm}\p{Lo}]+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def build(texts: Iterable[str], vocab_size: int, max_length: int, chat_template: str) -> PreTrainedTokenizerFast:
    """Learn `vocab_size` tokens (markers and the 256 bytes included) from `texts`."""
    tokenizer = Tokenizer(models.BPE())
    # One token for each digit: the model sees 12 as 1, 2, so a sum looks the same in every text.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=MARKERS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    # These markers are text: the parsers of reasoning and tool calls must find them after special tokens are skipped.
    text_markers = (THINK, THINK_END, CALL, CALL_END)
    tokenizer.add_tokens([AddedToken(marker, special=False, normalized=False) for marker in text_markers])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT, TOOLS, RESULT],
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = chat_template
    assert fast.convert_tokens_to_ids(MARKERS) == list(range(len(MARKERS)))
    return fast


def save(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json and chat_template.jinja."""
    tokenizer.save_pretrained(folder)
