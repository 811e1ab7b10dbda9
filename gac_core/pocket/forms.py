"""The prompt forms in which pipelines show a context and ask a question, or ask for JSON.

Worded as the defaults of LangChain and LlamaIndex, which the pocket members meet in chains, query
engines and chat engines. A form is a list of (role, text) with the places ``{context}`` and
``{question}``, or ``{schema}`` and ``{text}``, and, where an answer is to be refined, ``{given}``.
"""

Form = tuple[tuple[str, str], ...]

_LLAMA_INDEX_SYSTEM = (
    "You are an expert Q&A system that is trusted around the world.\n"
    "Always answer the query using the provided context information, and not prior knowledge.\n"
    "Some rules to follow:\n"
    "1. Never directly reference the given context in your answer.\n"
    "2. Avoid statements like 'Based on the context, ...' or 'The context information ...' or "
    "anything along those lines."
)
_RULE = "---------------------\n"
_REFINE_MODES = (
    "You are an expert Q&A system that strictly operates in two modes when refining existing "
    "answers:\n"
    "1. **Rewrite** an original answer using the new context.\n"
    "2. **Repeat** the original answer if the new context isn't useful.\n"
    "Never reference the original answer or context directly in your answer.\n"
    "When in doubt, just repeat the original answer.\n"
)

# How people ask, without a library's words.
PLAIN: tuple[Form, ...] = (
    (("user", "{context}\n\n{question}"),),
    (("user", "{context}\n\nQuestion: {question}"),),
    (("user", "Context:\n{context}\n\nQuestion: {question}\nAnswer:"),),
    (("user", "Use the facts to answer.\n{context}\n{question}"),),
    (("system", "Answer from the context only."), ("user", "{context}\n\n{question}")),
    (
        ("system", "Answer the question based only on this context:\n{context}"),
        ("user", "{question}"),
    ),
)

LANGCHAIN: tuple[Form, ...] = (
    (
        (
            "user",
            (
                "You are an assistant for question-answering tasks. Use the following pieces of "
                "retrieved context to answer the question. If you don't know the answer, just say "
                "that you don't know. Use three sentences maximum and keep the answer concise.\n"
                "Question: {question} \nContext: {context} \nAnswer:"
            ),
        ),
    ),
    (
        (
            "system",
            (
                "You are an assistant for question-answering tasks. Use the following pieces of "
                "retrieved context to answer the question. If you don't know the answer, say that "
                "you don't know. Use three sentences maximum and keep the answer concise.\n\n"
                "{context}"
            ),
        ),
        ("user", "{question}"),
    ),
    (
        (
            "system",
            (
                "Use the following pieces of context to answer the user's question. \n"
                "If you don't know the answer, just say that you don't know, don't try to make up "
                "an answer.\n----------------\n{context}"
            ),
        ),
        ("user", "{question}"),
    ),
    (
        (
            "user",
            (
                "Answer the question based only on the following context:\n{context}\n\n"
                "Question: {question}\n"
            ),
        ),
    ),
    (
        (
            "system",
            "You are a helpful assistant. Use the following context in your response:\n\n{context}",
        ),
        ("user", "{question}"),
    ),
)

LLAMA_INDEX: tuple[Form, ...] = (
    (
        ("system", _LLAMA_INDEX_SYSTEM),
        (
            "user",
            (
                f"Context information is below.\n{_RULE}{{context}}\n{_RULE}"
                "Given the context information and not prior knowledge, answer the query.\n"
                "Query: {question}\nAnswer: "
            ),
        ),
    ),
    (
        (
            "user",
            (
                f"Context information is below.\n{_RULE}{{context}}\n{_RULE}"
                "Given the context information and not prior knowledge, answer the query.\n"
                "Query: {question}\nAnswer: "
            ),
        ),
    ),
    (
        ("system", _LLAMA_INDEX_SYSTEM),
        (
            "user",
            (
                f"Context information from multiple sources is below.\n{_RULE}{{context}}\n{_RULE}"
                "Given the information from multiple sources and not prior knowledge, answer the "
                "query.\nQuery: {question}\nAnswer: "
            ),
        ),
    ),
    (
        (
            "system",
            (
                "Use the context information below to assist the user.\n--------------------\n"
                "{context}\n--------------------\n"
            ),
        ),
        ("user", "{question}"),
    ),
    (
        (
            "system",
            (
                "\n  The following is a friendly conversation between a user and an AI assistant.\n"
                "  The assistant is talkative and provides lots of specific details from its "
                "context.\n"
                "  If the assistant does not know the answer to a question, it truthfully says it\n"
                "  does not know.\n\n"
                "  Here are the relevant documents for the context:\n\n  {context}\n\n"
                "  Instruction: Based on the above documents, provide a detailed answer for the "
                "user question below.\n"
                '  Answer "don\'t know" if not present in the document.\n  '
            ),
        ),
        ("user", "{question}"),
    ),
)

REFINE: Form = (
    (
        "user",
        (
            f"{_REFINE_MODES}New Context: {{context}}\nQuery: {{question}}\n"
            "Original Answer: {given}\nNew Answer: "
        ),
    ),
)

CONDENSE: tuple[str, ...] = (
    (
        "\n  Given the following conversation between a user and an AI assistant and a follow up "
        "question from user,\n"
        "  rephrase the follow up question to be a standalone question.\n\n"
        "  Chat History:\n  {history}\n  Follow Up Input: {question}\n  Standalone question:"
    ),
    (
        "Given a conversation (between Human and Assistant) and a follow up message from Human, "
        "rewrite the message to be a standalone question that captures all relevant context "
        "from the conversation.\n\n"
        "<Chat History>\n{history}\n\n<Follow Up Message>\n{question}\n\n<Standalone question>\n"
    ),
)

SCHEMA: tuple[Form, ...] = (
    (("system", "Answer with JSON that fits this schema:\n{schema}"), ("user", "{text}")),
    (
        (
            "user",
            (
                "{text}\n\n\nHere's a JSON schema to follow:\n{schema}\n\n"
                "Output a valid JSON object but do not repeat the schema.\n"
            ),
        ),
    ),
    (
        (
            "user",
            (
                "{text}\n\nThe output should be formatted as a JSON instance that conforms to the "
                "JSON schema below.\n\n"
                'As an example, for the schema {{"properties": {{"foo": {{"title": "Foo", '
                '"description": "a list of strings", "type": "array", "items": {{"type": '
                '"string"}}}}}}, "required": ["foo"]}}\n'
                'the object {{"foo": ["bar", "baz"]}} is a well-formatted instance of the schema. '
                'The object {{"properties": {{"foo": ["bar", "baz"]}}}} is not well-formatted.\n\n'
                "Here is the output schema:\n```\n{schema}\n```"
            ),
        ),
    ),
)
