"""Structured extraction into a nested pydantic model, whole and as it grows."""

from llama_index.core.prompts import PromptTemplate
from pydantic import BaseModel, Field

from gac_integrations.llama_index import GaCLLM


class Details(BaseModel):
    """What is known of a person."""

    age: int = Field(ge=0, le=130)
    city: str


class Person(BaseModel):
    """A person."""

    name: str
    job: str
    details: Details


TEXT = "Mila works as a baker. Mila is 42 years old. Mila lives in Rome."
llm = GaCLLM(model="pocket")
prompt = PromptTemplate("{text}")
print(llm.structured_predict(Person, prompt, text=TEXT))

before = ""
for partly in llm.stream_structured_predict(Person, prompt, text=TEXT):
    if str(partly) != before:
        before = str(partly)
        print(before)
