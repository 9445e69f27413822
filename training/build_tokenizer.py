"""Train the bundled checkpoint's tokenizer with SentencePiece and write it in the Hub's format.

Byte-pair encoding with byte fallback, so that any text encodes; digits stand alone, spaces are kept as they are (no
prefix space, as in Gemma), and the special tokens have the names that DiffusionGemma's have. It is trained on tasks of
the training split only.

    python -m training.build_tokenizer OUT_DIR
"""

import argparse
import io
from pathlib import Path
from random import Random

import sentencepiece as spm
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from mlx_diffusion.measure.tasks import FAMILIES, draw, facts

VOCAB_SIZE = 1024
SPECIAL = (
    "<pad>",
    "<eos>",
    "<bos>",
    "<unk>",
    "<|turn>",
    "<turn|>",
    "<|think|>",
    "<|channel>",
    "<channel|>",
    "<|tool>",
    "<tool|>",
    "<|tool_call>",
    "<tool_call|>",
    "<|tool_response>",
    "<tool_response|>",
    '<|"|>',
    "<|image>",
    "<image|>",
    "<|image|>",
)
TASKS_A_FAMILY = 1500
CHAT_TEMPLATE = Path(__file__).with_name("chat_template.jinja")


def corpus() -> list[str]:
    """Lines of prompts and answers of the training split.

    The syllables of names and the words of the template weigh most, so that each becomes one piece: a name that
    training never saw is then two known pieces, like those that it saw.
    """
    rng = Random(0)
    lines = [
        *facts.ONSETS,
        *(f" {onset}" for onset in facts.ONSETS),
        *facts.CODAS,
        "user",
        "model",
        "system",
        "thought",
    ]
    lines *= 10 * TASKS_A_FAMILY
    for make in FAMILIES.values():
        for _ in range(TASKS_A_FAMILY):
            task = draw(make, rng, "train")
            texts = (task.messages[-1]["content"], task.thought or "", task.answer)
            lines += [line for text in texts for line in text.split("\n") if line]
            lines += [f"declaration:{tool['function']['name']}" for tool in task.tools]
    return lines


def train(lines: list[str]) -> spm.SentencePieceProcessor:
    """A SentencePiece BPE model of `VOCAB_SIZE` pieces."""
    model = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type="bpe",
        vocab_size=VOCAB_SIZE,
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        pad_piece="<pad>",
        eos_piece="<eos>",
        bos_piece="<bos>",
        unk_piece="<unk>",
        control_symbols=list(SPECIAL[4:]),
        byte_fallback=True,
        character_coverage=1.0,
        required_chars="".join(map(chr, range(33, 127))) + "\n",
        split_digits=True,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        input_sentence_size=0,
        num_threads=1,
        minloglevel=2,
    )
    return spm.SentencePieceProcessor(model_proto=model.getvalue())


def merges_of(vocab: dict[str, int]) -> list[tuple[str, str]]:
    """The merges behind a SentencePiece BPE vocabulary, whose ids are in the order of the merges."""
    merges = []
    for piece in vocab:
        pairs = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
        known = [pair for pair in pairs if pair[0] in vocab and pair[1] in vocab]
        merges += sorted(known, key=lambda pair: (vocab[pair[0]], vocab[pair[1]]))
    return merges


def to_hub_format(processor: spm.SentencePieceProcessor) -> PreTrainedTokenizerFast:
    """The same tokenizer as a tokenizer.json with the chat template."""
    vocab = {processor.id_to_piece(i): i for i in range(processor.vocab_size())}
    mergeable = {
        piece: i
        for piece, i in vocab.items()
        if not (processor.is_control(i) or processor.is_byte(i) or piece == "<unk>")
    }
    model = models.BPE(vocab, merges_of(mergeable), unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>",
        unk_token="<unk>",
        additional_special_tokens=list(SPECIAL[4:]),
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE.read_text()
    return fast


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    processor = train(corpus())
    to_hub_format(processor).save_pretrained(args.out)
    print(f"{processor.vocab_size()} pieces in {args.out}")


if __name__ == "__main__":
    main()
