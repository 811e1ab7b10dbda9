"""Answers as objects of a nested pydantic model; what comes back always fits it."""

from pydantic import BaseModel, Field

from gac_integrations.langchain import ChatGaC


class Details(BaseModel):
    """What is known of a person."""

    age: int = Field(ge=0, le=130)
    city: str


class Person(BaseModel):
    """A person."""

    name: str
    job: str
    details: Details


reader = ChatGaC(model="pocket").with_structured_output(Person)
print(reader.invoke("Mila works as a baker. Mila is 42 years old. Mila lives in Rome."))
