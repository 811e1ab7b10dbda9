"""Put models together that are loaded already; here two members of the pocket ensemble."""

from transformers import AutoModelForCausalLM, AutoTokenizer

from gac_core import Ensemble, pocket

pairs = [
    (AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder))
    for folder in (pocket.folder("bo"), pocket.folder("cy"))
]
with Ensemble.from_models(pairs, names=["bo", "cy"], weights=[0.6, 0.4]) as ensemble:
    print(f"{ensemble.union.size} units in the union vocabulary")
    question = "The code of Ada is 4821.\nThe code of Ben is 9037.\n\nWhat is the code of Ben?"
    print(ensemble.generate([{"role": "user", "content": question}]).text)
