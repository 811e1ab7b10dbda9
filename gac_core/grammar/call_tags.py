"""The tags between which a call of a tool stands in an answer: ``<tool_call>{...}</tool_call>``.

It is the form most open models have been trained on.
"""

from typing import Final

CALL_OPENS: Final = "<tool_call>"
CALL_CLOSES: Final = "</tool_call>"
