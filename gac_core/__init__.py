"""Several language models with different tokenizers write one text together, token by token.

torch and transformers take seconds to import, so a public name is loaded when it is first used;
`__init__.pyi` tells where each of them is.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
