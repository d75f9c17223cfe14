"""make_peft.py -- cartridges as PEFT and the published code save them, for the model in llama/.

Needs torch, transformers, peft and safetensors; kept beside what it made, not run by any test; README.md says
what is what. Numbers are exact in bf16, so that whoever reads them must end at the same rows. The pickles are
what torch.save writes for the published class: a dictionary of four ParameterLists.
"""
import os
import shutil

import peft
import torch
import transformers
from peft import CartridgeConfig, get_peft_model
from safetensors.torch import save_file
from torch import nn
from transformers import AutoModelForCausalLM

HERE = os.path.dirname(os.path.abspath(__file__))
MODEL, FOLDER, TORCH = (os.path.join(HERE, n) for n in ("llama", "peft", "torch"))
MADE_BY = {"made_by": f"peft {peft.__version__}, transformers {transformers.__version__}, "
                      f"torch {torch.__version__.split('+')[0]}"}
ROWS, FROZEN, TOKENS = 10, 2, 12


def random_rows(config, g):
    """[L] pairs of keys and values [1,G,P,D], as attention reads them."""
    shape = (config.num_hidden_layers, 2, 1, config.num_key_value_heads, ROWS, config.head_dim)
    return torch.randn(shape, generator=g).to(torch.bfloat16)


@torch.no_grad()
def save_peft(rows, g):
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.bfloat16).double().eval()
    config = CartridgeConfig(task_type="CAUSAL_LM", num_virtual_tokens=ROWS, num_frozen_tokens=FROZEN)
    adapted = get_peft_model(model, config)
    flat = rows[:, :, 0].flatten(0, 1).permute(2, 0, 1, 3).flatten(1)
    adapted.prompt_encoder["default"].load_prompt_embeddings(flat)
    adapted.peft_config["default"].base_model_name_or_path = "tests/golden/llama"
    shutil.rmtree(FOLDER, ignore_errors=True)
    adapted.save_pretrained(FOLDER)
    os.remove(os.path.join(FOLDER, "README.md"))  # a template for a model card
    tokens = torch.randint(model.config.vocab_size, (TOKENS,), generator=g)
    logits = adapted(tokens[None]).logits[0]
    out = {"tokens": tokens.int(), "logits": logits.float()}
    save_file(out, os.path.join(FOLDER, "golden.safetensors"), MADE_BY)
    print(f"peft: {ROWS} rows, largest logit {logits.abs().max():.2f}, stored as {flat.dtype}")


def parameters(rows, part, first, end, trained, dtype=torch.bfloat16):
    tensors = [layer[part][:, :, first:end].contiguous().to(dtype) for layer in rows] if end > first else []
    return nn.ParameterList([nn.Parameter(t, requires_grad=trained) for t in tensors])


def published(rows, frozen, name, dtype=torch.bfloat16):
    """What the published class saves; `name` is what the rows that never learn are called."""
    return {"trainable_keys": parameters(rows, 0, frozen, ROWS, True, dtype),
            "trainable_values": parameters(rows, 1, frozen, ROWS, True, dtype),
            f"{name}_keys": parameters(rows, 0, 0, frozen, False, dtype),
            f"{name}_values": parameters(rows, 1, 0, frozen, False, dtype)}


class Command:
    """What a hostile file does to whoever unpickles it."""

    def __reduce__(self):
        return os.system, ("touch executed",)


def save_wrong(rows, save):
    """Lists that do not belong together; and lists that are one small storage again and again."""
    layer, values = published(rows, FROZEN, "frozen"), published(rows, FROZEN, "frozen")
    layer["trainable_keys"][1] = layer["trainable_keys"][1][:, :, :-1].clone()
    values["trainable_values"] = nn.ParameterList([v[:, :, :-1].clone() for v in values["trainable_values"]])
    save(layer, "wrong-layer.pt")
    save(values, "wrong-values.pt")
    save(published(rows, FROZEN, "frozen") | {"segment_keys": None}, "wrong-entry.pt")
    once = torch.cat([rows[0, 0]] * 5, dim=2)
    save({name: [once] * len(rows) for name in published(rows, FROZEN, "frozen")}, "repeated.pt")


def save_torch(rows, g):
    shutil.rmtree(TORCH, ignore_errors=True)
    os.mkdir(TORCH)
    save = lambda what, name: torch.save(what, os.path.join(TORCH, name))
    save(published(rows, FROZEN, "frozen"), "frozen.pt")
    save(published(rows, FROZEN, "fixed"), "fixed.pt")
    save(published(rows, 0, "frozen"), "none-frozen.pt")
    save(published(rows, FROZEN, "frozen", torch.float32), "float32.pt")
    # plain lists, of tensors that are views with strides of their own into one storage
    across = rows.transpose(-1, -2).contiguous().transpose(-1, -2)
    views = {f"{name}_{kind}": [layer[part][:, :, first:end] for layer in across]
             for name, first, end in (("trainable", FROZEN, ROWS), ("frozen", 0, FROZEN))
             for part, kind in enumerate(("keys", "values"))}
    save(views, "views.pt")
    save(published(rows, FROZEN, "frozen") | {"more": Command()}, "hostile.pt")
    third = torch.full_like(rows, 1 / 3, dtype=torch.float32)
    save(published(third, FROZEN, "frozen", torch.float32), "inexact.pt")
    save_wrong(rows, save)
    print("torch:", ", ".join(sorted(os.listdir(TORCH))))


def main():
    config = transformers.AutoConfig.from_pretrained(MODEL)
    g = torch.Generator().manual_seed(200)
    rows = random_rows(config, g)
    save_peft(rows, g)
    save_torch(rows, g)


if __name__ == "__main__":
    main()
