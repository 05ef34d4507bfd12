"""Run inside the quality environment: makes a tiny HPSv3 with random weights, and scores frames with the package.

Usage: hpsv3_direct.py FOLDER TASKS, where TASKS is a JSON list of [frames.npy, prompt].
"""

import json
import sys
from pathlib import Path

import hpsv3
import numpy as np
import torch
import yaml
from hpsv3.train import create_model_and_processor
from hpsv3.utils.parser import DataConfig, ModelConfig, PEFTLoraConfig, TrainingConfig, parse_args_with_yaml
from PIL import Image
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import Qwen2TokenizerFast, Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLImageProcessor

SPECIAL = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ c['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_tokenizer(base: Path) -> dict[str, int]:
    """A byte-level tokenizer without merges, in the files that Qwen2-VL's has."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({symbol: number for number, symbol in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    fast = Qwen2TokenizerFast(tokenizer_object=tokenizer, pad_token="<|endoftext|>", chat_template=TEMPLATE)
    fast.save_pretrained(base)
    Qwen2VLImageProcessor().save_pretrained(base)
    settings = json.loads((base / "preprocessor_config.json").read_text())
    (base / "preprocessor_config.json").write_text(json.dumps({**settings, "processor_class": "Qwen2VLProcessor"}))
    (base / "chat_template.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    return {token: fast.convert_tokens_to_ids(token) for token in SPECIAL}


def make_base(base: Path) -> None:
    """A Qwen2-VL of two small layers in each tower."""
    base.mkdir(parents=True)
    ids = make_tokenizer(base)
    torch.manual_seed(0)
    config = Qwen2VLConfig(
        vocab_size=264,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        rope_scaling={"type": "mrope", "mrope_section": [2, 3, 3]},
        tie_word_embeddings=False,
        vision_config={"depth": 2, "embed_dim": 32, "hidden_size": 64, "num_heads": 2, "mlp_ratio": 2},
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    Qwen2VLForConditionalGeneration(config).save_pretrained(base)


def make_checkpoint(config: Path, checkpoint: Path) -> None:
    """Random weights under the names that the package's strict load wants."""
    kinds = (DataConfig, TrainingConfig, ModelConfig, PEFTLoraConfig)
    (_, training, model, lora), _ = parse_args_with_yaml(kinds, str(config), is_train=False)
    made, _, _ = create_model_and_processor(model_config=model, peft_lora_config=lora, training_args=training)
    torch.manual_seed(1)
    state = {name: value + 0.1 * torch.randn_like(value) for name, value in made.state_dict().items()}
    save_file({name: value.contiguous() for name, value in state.items()}, checkpoint)
    first = next(iter(state))
    save_file(
        {name: value.contiguous() for name, value in state.items() if name != first},
        checkpoint.parent / "lacking.safetensors",
    )


def main(folder: Path, tasks: list) -> None:
    make_base(folder / "base")
    published = Path(hpsv3.__file__).with_name("config") / "HPSv3_7B.yaml"
    # bfloat16, as published, needs CUDA: on a CPU the package's own head then refuses its input.
    settings = yaml.safe_load(published.read_text()) | {"bf16": False, "torch_dtype": "float32"}
    config = folder / "tiny.yaml"
    config.write_text(
        yaml.safe_dump({**settings, "model_name_or_path": str(folder / "base"), "output_dir": str(folder)})
    )
    make_checkpoint(config, folder / "tiny.safetensors")
    judge = hpsv3.HPSv3RewardInferencer(
        config_path=str(config), checkpoint_path=str(folder / "tiny.safetensors"), device="cpu"
    )
    given = []
    torch.set_grad_enabled(False)
    for frames, prompt in tasks:
        rows = [
            judge.reward(image_paths=[Image.fromarray(pixels)], prompts=[prompt])[0].tolist()
            for pixels in np.load(frames)
        ]
        given.append(rows)
    print("\n" + json.dumps(given))


main(Path(sys.argv[1]), json.loads(sys.argv[2]))
