"""The PyTorch twin of `psionic train golf`: the same shards, tokenizer, initial values and learning rates of every step.

Usage: python scripts/pytorch/golf_twin.py check|train WORK
       scripts/gpu/golf_pair.ts writes the folder WORK and reads what comes back; the model is that of src/train/golf/train_gpt.py.
       check: WORK/check.json {shape, sequences, batches, adam_w, multiplier}, check_tokens.i32, check_init.safetensors
              -> gradients_f32.safetensors, gradients_bf16.safetensors, check_result.json with losses
       train: WORK/train.json {shape, dataset, tokenizer, steps, seconds, warmup, sequences, accumulation, rates},
              init.safetensors -> train_result.json: losses, milliseconds, memory, bits per byte before and after int8
Needs torch; on a machine without CUDA it runs on the CPU, uncompiled, to try it out.
"""

import importlib.util
import json
import os
import pathlib
import struct
import sys
import time

import torch

script = pathlib.Path(__file__).resolve().parents[2] / "src" / "train" / "golf" / "train_gpt.py"
spec = importlib.util.spec_from_file_location("train_gpt", script)
golf = importlib.util.module_from_spec(spec)
spec.loader.exec_module(golf)

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
STACKED = ("resid_mix", "skip_weights")


def own_names(tensors):
    """(name, tensor) as psionic has them: rows of stacked vectors by themselves."""
    for name, t in tensors:
        if name.rsplit(".", 1)[-1] in STACKED:
            for row in range(t.shape[0]):
                yield f"{name}.{row}", t[row]
        else:
            yield name, t


def model_of(shape, path, dtype):
    model = golf.Gpt(**shape, dtype=dtype).to(DEVICE)
    values = golf.read_tensors(path.read_bytes())
    with torch.no_grad():
        for name, t in own_names(model.named_parameters()):
            t.copy_(values.pop(name))
    if values:
        raise SystemExit(f"{path}: expected no other tensors, got {', '.join(values)}")
    return model


def write_tensors(path, named):
    header, parts, end = {}, [], 0
    for name, t in named:
        t = t.detach().float().cpu().contiguous()
        data = golf.ctypes.string_at(t.data_ptr(), 4 * t.numel())
        header[name] = {"dtype": "F32", "shape": list(t.shape), "data_offsets": [end, end + len(data)]}
        parts.append(data)
        end += len(data)
    head = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(head)) + head + b"".join(parts))


def precisely():
    """f32 products in f32."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")


def gradients(work, config, batch, dtype, name):
    model = model_of(config["shape"], work / "check_init.safetensors", dtype)
    loss = model(*batch)
    loss.backward()
    write_tensors(work / f"gradients_{name}.safetensors", own_names((n, p.grad) for n, p in model.named_parameters()))
    return loss.item()


def adam_w_losses(work, config, batches):
    model = model_of(config["shape"], work / "check_init.safetensors", torch.float32)
    plain, decayed = [], []
    for name, p in model.named_parameters():
        vector = p.dim() < 2 or any(c in name for c in golf.CONTROLS)
        (plain if vector else decayed).append(p)
    a = config["adam_w"]
    groups = [{"params": plain, "weight_decay": 0.0}, {"params": decayed, "weight_decay": a["weight_decay"]}]
    adam_w = torch.optim.AdamW(groups, lr=a["lr"], betas=(0.9, 0.95), eps=1e-8)
    losses = []
    for batch in batches:
        model.zero_grad(set_to_none=True)
        loss = model(*batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam_w.step()
        losses.append(loss.item())
    return losses


def muon_losses(work, config, batches, dtype):
    model = model_of(config["shape"], work / "check_init.safetensors", dtype)
    optimizers = golf.Optimizers(model, dtype=dtype, compiled=False)
    losses = []
    for step, batch in enumerate(batches, 1):
        model.zero_grad(set_to_none=True)
        loss = model(*batch)
        loss.backward()
        optimizers.step(config["multiplier"], golf.momentum_at(step))
        losses.append(loss.item())
    return losses


def check(work):
    precisely()
    config = json.loads((work / "check.json").read_text())
    length = config["shape"]["length"]
    flat = torch.frombuffer(bytearray((work / "check_tokens.i32").read_bytes()), dtype=torch.int32)
    rows = flat.view(config["batches"], -1).to(DEVICE, torch.int64)
    batches = [(r[:-1].view(-1, length), r[1:].view(-1, length)) for r in rows]
    result = {
        "torch": torch.__version__,
        "loss_f32": gradients(work, config, batches[0], torch.float32, "f32"),
        "loss_bf16": gradients(work, config, batches[0], torch.bfloat16, "bf16"),
        "adam_w_losses": adam_w_losses(work, config, batches),
        "muon_losses": muon_losses(work, config, batches, torch.float32),
        "muon_bf16_losses": muon_losses(work, config, batches, torch.bfloat16),
    }
    (work / "check_result.json").write_text(json.dumps(result))


def train(work):
    torch.set_float32_matmul_precision("high")
    config = json.loads((work / "train.json").read_text())
    length = config["shape"]["length"]
    model = model_of(config["shape"], work / "init.safetensors", torch.bfloat16)
    stream = golf.Stream(golf.shards(config["dataset"], "train"))
    tokenizer = config["tokenizer"]
    tokenizer = os.path.join(tokenizer, "tokenizer.model") if os.path.isdir(tokenizer) else tokenizer
    table, held_out = golf.byte_tables(tokenizer, DEVICE), golf.shards(config["dataset"], "val")
    begun = time.perf_counter()
    result = golf.train(
        model,
        stream,
        config["steps"],
        config["seconds"],
        config["sequences"],
        config["accumulation"],
        length,
        config["warmup"],
        config["rates"],
        log=lambda line: print(line, file=sys.stderr, flush=True),
    )
    result["wall_ms_with_warmup"] = 1000 * (time.perf_counter() - begun)
    result["torch"] = torch.__version__
    begun = time.perf_counter()
    result["live"] = golf.evaluate(model, held_out, table, length, config["sequences"])
    result["eval_ms"] = 1000 * (time.perf_counter() - begun)
    state = {n: t.detach().clone() for n, t in model.state_dict().items()}
    for name, least in (("int8_clean_per_row_v1", 1 / 127), ("int8_clean_per_row", 0)):
        artifact = golf.quantize(state, least)
        model.load_state_dict(golf.dequantize(artifact))
        result[name] = {"artifact_bytes": len(artifact), **golf.evaluate(model, held_out, table, length, config["sequences"])}
    (work / "train_result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in ("check", "train"):
        sys.exit(__doc__)
    {"check": check, "train": train}[sys.argv[1]](pathlib.Path(sys.argv[2]))
