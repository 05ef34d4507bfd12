"""Draw a small HPSv3 with random weights, in the files that the package reads, inside `quality`.

Architecture, file names, tokenizer and loader are those of the published 7 billion parameters; widths, layers and the
vocabulary are small.
"""

from __future__ import annotations

import importlib
import json
import tempfile
from pathlib import Path
from typing import Any

import hpsv3
import torch
import yaml
from hpsv3.train import create_model_and_processor
from hpsv3.utils.parser import DataConfig, ModelConfig, PEFTLoraConfig, TrainingConfig, parse_args_with_yaml
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

transformers: Any = importlib.import_module("transformers")  # of the environment; others name its classes otherwise

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
PARTS = 5
"""Files that the published base model is split into."""


def setup(options: dict[str, Any], weights: str, device: str) -> None:
    """Draw the base model and the checkpoint into the folder `weights`, unless they are there."""
    base, checkpoint = Path(weights) / "Qwen2-VL-7B-Instruct", Path(weights) / "HPSv3.safetensors"
    if not checkpoint.exists():
        make_base(base)
        make_checkpoint(base, checkpoint)


def make_base(base: Path) -> None:
    """A Qwen2-VL of two small layers in each tower."""
    base.mkdir(parents=True, exist_ok=True)
    ids = make_tokenizer(base)
    torch.manual_seed(0)
    config = transformers.Qwen2VLConfig(
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
    network = transformers.Qwen2VLForConditionalGeneration(config)
    network.config.save_pretrained(base)
    network.generation_config.save_pretrained(base)
    state = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    files = {name: f"model-{index % PARTS + 1:05}-of-{PARTS:05}.safetensors" for index, name in enumerate(state)}
    for file in sorted(set(files.values())):
        save_file({name: state[name] for name in state if files[name] == file}, base / file, {"format": "pt"})
    size = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    index = {"metadata": {"total_size": size}, "weight_map": files}
    (base / "model.safetensors.index.json").write_text(json.dumps(index))


def make_tokenizer(base: Path) -> dict[str, int]:
    """A byte-level tokenizer without merges, in the files that Qwen2-VL's has; the numbers of its special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({symbol: number for number, symbol in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    fast = transformers.Qwen2TokenizerFast(
        tokenizer_object=tokenizer, pad_token="<|endoftext|>", chat_template=TEMPLATE
    )
    fast.save_pretrained(base)
    tokenizer.model.save(str(base))
    transformers.Qwen2VLImageProcessor().save_pretrained(base)
    settings = json.loads((base / "preprocessor_config.json").read_text())
    (base / "preprocessor_config.json").write_text(json.dumps({**settings, "processor_class": "Qwen2VLProcessor"}))
    (base / "chat_template.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    ids: dict[str, int] = {token: fast.convert_tokens_to_ids(token) for token in SPECIAL}
    return ids


def make_checkpoint(base: Path, checkpoint: Path) -> None:
    """Random weights under the names that the package's strict load wants."""
    published = Path(hpsv3.__file__).with_name("config") / "HPSv3_7B.yaml"
    with tempfile.TemporaryDirectory() as folder:
        # bfloat16, as published, needs CUDA: on a CPU the package's own head then refuses its input.
        settings = yaml.safe_load(published.read_text(encoding="utf-8")) | {"bf16": False, "torch_dtype": "float32"}
        settings |= {"model_name_or_path": str(base), "output_dir": folder, "report_to": "none"}
        config = Path(folder) / "small.yaml"
        config.write_text(yaml.safe_dump(settings), encoding="utf-8")
        kinds = (DataConfig, TrainingConfig, ModelConfig, PEFTLoraConfig)
        (_, training, model, lora), _ = parse_args_with_yaml(kinds, str(config), is_train=False)
        network, _, _ = create_model_and_processor(model_config=model, peft_lora_config=lora, training_args=training)
    torch.manual_seed(1)
    state = {name: value + 0.1 * torch.randn_like(value) for name, value in network.state_dict().items()}
    save_file({name: value.contiguous() for name, value in state.items()}, checkpoint)
